//! The places of the repository beside its own: `[mirror]` and `[mirror2]`, checked.

use std::time::Duration;

use anyhow::{Result, bail};
use walkeep_chunkstore::mirror::Durability;
use walkeep_chunkstore::storage::{Place, S3Options};

use super::sections::MirrorSection;
use super::{Config, ConfigError, length_of_time, place};

/// A mirror, checked.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// Where it is.
    pub place: Place,
    /// Whether success waits for it.
    pub durability: Durability,
    /// How long what it has stays here.
    pub local_window: Option<Duration>,
    /// How to talk to it.
    pub s3: S3Options,
}

impl MirrorSettings {
    /// The endpoint as it was configured; empty for AWS's own.
    pub fn endpoint(&self) -> &str {
        self.s3.endpoint.as_deref().unwrap_or_default()
    }
}

impl MirrorSection {
    fn s3(&self) -> S3Options {
        let this = self.clone();
        S3Options {
            endpoint: this.endpoint,
            region: this.region,
            path_style: this.path_style,
            ca_file: this.ca_file,
            encryption: this.encryption,
            kms_key: this.kms_key,
            pack_class: this.pack_class,
            wal_class: this.wal_class,
            lock_days: this.lock_days,
            lock_mode: this.lock_mode,
            request_timeout: this.request_timeout,
            total_timeout: this.total_timeout,
        }
    }
}

impl Config {
    /// The mirrors, in the order of their sections.
    pub fn mirrors(&self) -> Result<Vec<MirrorSettings>> {
        let sections = [("mirror", &self.mirror), ("mirror2", &self.mirror2)];
        let mut mirrors = Vec::new();
        for (name, section) in sections {
            let Some(url) = &section.url else { continue };
            let place = place(url)?;
            if place == self.repository_place()? {
                bail!(ConfigError(format!("[{name}] url is the repository itself: '{place}'")));
            }
            let window = |text| length_of_time(&format!("[{name}] local_window"), text);
            let local_window = section.local_window.as_deref().map(window).transpose()?;
            let durability = section.durability.unwrap_or_default();
            mirrors.push(MirrorSettings { place, durability, local_window, s3: section.s3() });
        }
        Ok(mirrors)
    }

    /// How to talk to the bucket that `[repository] url` names: `[mirror]`'s keys, unless that is a mirror of its own.
    /// Success waits for the bucket unless `durability` says otherwise.
    pub fn bucket_settings(&self) -> Result<MirrorSettings> {
        let durability = self.mirror.durability.unwrap_or(Durability::Mirror);
        Ok(MirrorSettings { place: self.repository_place()?, durability, local_window: None, s3: self.mirror.s3() })
    }
}
