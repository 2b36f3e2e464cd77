//! `walkeep.json`: what every reader must know before it reads anything else.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::chunker::{ContentSizes, PageSizes};
use crate::error::{Error, Result};

/// The newest repository format this build reads and writes.
pub const FORMAT: u32 = 1;

/// Features that a repository may use, in the manner of ext4: what an older program may do with it depends on the list a
/// feature stands in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Older programs may read and write.
    pub compatible: Vec<String>,
    /// Older programs may read, not write.
    pub read_only: Vec<String>,
    /// Older programs may do neither.
    pub incompatible: Vec<String>,
}

/// How data is cut. Fixed at init: other numbers would find no old chunk again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerConfig {
    /// Relation data, in pages.
    pub pages: PageSizes,
    /// Other files, in bytes.
    pub files: ContentSizes,
    /// WAL, in bytes.
    pub wal: ContentSizes,
}

/// The repository's description, readable JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryConfig {
    /// Format of all objects.
    pub format: u32,
    /// Written into the header of every object.
    pub repository_id: Ulid,
    /// When it was made.
    pub created: Timestamp,
    /// Cipher suite; none yet. Key slots will be objects below `keys/`.
    pub cipher: Option<String>,
    /// Master of all hashes, hexadecimal; absent in an encrypted repository, where it is derived from the master key.
    pub hash_key: Option<String>,
    /// How data is cut.
    pub chunker: ChunkerConfig,
    /// What else a program must know to touch it.
    pub features: Features,
}

impl RepositoryConfig {
    /// A description for a new repository.
    pub fn generate(now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            repository_id: Ulid::generate(),
            created: now,
            cipher: None,
            hash_key: Some(HEXLOWER.encode(&rand::random::<[u8; 32]>())),
            chunker: ChunkerConfig { pages: PageSizes::DEFAULT, files: ContentSizes::FILES, wal: ContentSizes::WAL },
            features: Features::default(),
        }
    }

    /// The JSON text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a plain structure always serialises");
        text.push(b'\n');
        text
    }

    /// Reads and checks the JSON text of `object`.
    pub fn parse(object: &str, text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(text).map_err(|e| Error::damaged(object, e))?;
        let newer = |problem: String| Error::Unsupported { object: format!("repository ('{object}')"), problem };
        if head.format != FORMAT {
            return Err(newer(format!("it has format {}, this build reads {FORMAT}", head.format)));
        }
        let config: Self = serde_json::from_slice(text).map_err(|e| Error::damaged(object, e))?;
        if let Some(feature) = config.features.incompatible.first() {
            return Err(newer(format!("it uses the feature '{feature}'")));
        }
        if let Some(cipher) = &config.cipher {
            return Err(newer(format!("it is encrypted with '{cipher}'")));
        }
        let chunker = &config.chunker;
        if !(chunker.pages.is_valid() && chunker.files.is_valid() && chunker.wal.is_valid()) {
            return Err(Error::damaged(object, "impossible chunk sizes"));
        }
        config.hash_master(object)?;
        Ok(config)
    }

    /// The master key of all hashes.
    pub(super) fn hash_master(&self, object: &str) -> Result<[u8; 32]> {
        let text = self.hash_key.as_deref().unwrap_or_default();
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| Error::damaged(object, "its hash_key is not 64 hexadecimal digits"))
    }

    /// Refuses writing where a feature that this build does not know forbids it.
    pub fn check_writable(&self) -> Result<()> {
        match self.features.read_only.first() {
            None => Ok(()),
            Some(feature) => Err(Error::Unsupported {
                object: "writing to the repository".to_owned(),
                problem: format!("it uses the feature '{feature}'"),
            }),
        }
    }
}
