//! Reading the file, and saying what is wrong with it.

use std::path::Path;

use anyhow::Result;

use super::{Config, ConfigError, DEFAULT_PATH};

/// Sections whose keys may also come from `WALKEEP_SECTION_KEY`. Other `WALKEEP_…` variables are none of ours.
const SECTIONS: [&str; 10] =
    ["cluster", "repository", "mirror", "mirror2", "stream", "schedule", "compression", "limits", "metrics", "state"];

impl Config {
    /// Reads the file, lays the environment over it, and refuses keys that mean nothing.
    ///
    /// A missing file at the default place is an empty one; one that was asked for must exist.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        use figment::Figment;
        use figment::providers::{Env, Format, Toml};
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut figment = Figment::new();
        match std::fs::read_to_string(file) {
            Ok(text) => {
                // The parser's own display would show the line, and with it what may be a password.
                if let Err(error) = text.parse::<toml::Table>() {
                    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
                    let (file, problem) = (file.display(), error.message());
                    return Err(
                        ConfigError(format!("unable to use configuration '{file}': line {line}: {problem}")).into()
                    );
                }
                figment = figment.merge(Toml::string(&text));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_none() => {}
            Err(e) => return Err(ConfigError(format!("unable to read '{}': {e}", file.display())).into()),
        }
        let environment = Env::prefixed("WALKEEP_")
            .filter(|name| {
                SECTIONS.iter().any(|section| name.as_str().to_lowercase().starts_with(&format!("{section}_")))
            })
            .map(|name| name.as_str().replacen('_', ".", 1).into());
        let figment = figment.merge(environment);
        figment.extract().map_err(|error| ConfigError(explain(&error, file)).into())
    }
}

/// figment's error with the key, the file, and the nearest key that exists.
fn explain(error: &figment::Error, file: &Path) -> String {
    let mut text = format!("unable to use configuration '{}'", file.display());
    for error in error.clone() {
        let place = error.path.join(".");
        text.push_str(": ");
        match &error.kind {
            figment::error::Kind::UnknownField(name, known) => {
                // figment's path ends at the section or at the key itself.
                let section = place.split('.').next().filter(|section| section != name).unwrap_or_default();
                text.push_str(&format!("unknown key '{}'", key(section, name)));
                let nearest = known
                    .iter()
                    .map(|known| (strsim::damerau_levenshtein(name, known), known))
                    .min()
                    .filter(|(distance, known)| *distance <= known.len().div_ceil(2));
                if let Some((_, nearest)) = nearest {
                    text.push_str(&format!(", did you mean '{}'?", key(section, nearest)));
                }
            }
            kind => text.push_str(&format!("'{place}': {kind}")),
        }
    }
    text
}

/// A key below its section, if it is in one.
fn key(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}
