//! `require_auth`: the ways in which a server may ask for proof of who we are.

use super::error::ConninfoError;
use super::parameters::Settings;

/// A way in which a server lets a client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthenticationMethod {
    /// The server asks for nothing (`trust`, or a client certificate was enough).
    None,
    /// The password itself.
    Password,
    /// A hash of the password that MD5 makes.
    Md5,
    /// SCRAM-SHA-256, with or without channel binding.
    ScramSha256,
}

/// libpq's words for them. Those without a method are known but never answered by this client.
const METHODS: [(&str, Option<AuthenticationMethod>); 7] = [
    ("none", Some(AuthenticationMethod::None)),
    ("password", Some(AuthenticationMethod::Password)),
    ("md5", Some(AuthenticationMethod::Md5)),
    ("scram-sha-256", Some(AuthenticationMethod::ScramSha256)),
    ("gss", None),
    ("sspi", None),
    ("oauth", None),
];

/// Which ways are acceptable (`require_auth`); all of them when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedAuthentication {
    refused: Vec<AuthenticationMethod>,
}

impl AllowedAuthentication {
    /// Whether the server may use this method. To be asked with `AuthenticationMethod::None` when the server lets us in
    /// without having asked for anything.
    pub fn allows(&self, method: AuthenticationMethod) -> bool {
        !self.refused.contains(&method)
    }

    /// From a list of methods that are allowed, or one of methods that are not, each with a `!`.
    pub(super) fn resolve(settings: &Settings) -> Result<Self, ConninfoError> {
        let Some(setting) = settings.nonempty("require_auth") else { return Ok(Self::default()) };
        let wrong = |reason: String| setting.invalid("require_auth", reason);
        let words: Vec<&str> = setting.value.split(',').collect();
        let negated = setting.value.starts_with('!');
        if words.iter().any(|word| word.starts_with('!') != negated) {
            return Err(wrong("either all of its methods have a '!' or none has".to_owned()));
        }
        let mut named = Vec::new();
        for word in words {
            let word = word.trim_start_matches('!');
            if !METHODS.iter().any(|(known, _)| *known == word) {
                let known: Vec<&str> = METHODS.iter().map(|(known, _)| *known).collect();
                return Err(wrong(format!("its methods are some of {}", known.join(", "))));
            }
            if named.contains(&word) {
                return Err(wrong(format!("'{word}' appears twice")));
            }
            named.push(word);
        }
        let refused = METHODS.iter().filter(|(word, _)| named.contains(word) == negated);
        Ok(Self { refused: refused.filter_map(|(_, method)| *method).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::AuthenticationMethod::{Md5, None as Nothing, Password, ScramSha256};
    use super::*;
    use crate::postgres::conninfo::Origin;

    fn resolved(text: &str) -> Result<Vec<AuthenticationMethod>, ConninfoError> {
        let mut settings = Settings::default();
        settings.set("require_auth", text, &Origin::ConnectionString)?;
        let allowed = AllowedAuthentication::resolve(&settings)?;
        Ok([Nothing, Password, Md5, ScramSha256].into_iter().filter(|method| allowed.allows(*method)).collect())
    }

    #[test]
    fn allows_what_is_listed_or_not_negated() {
        let cases: &[(&str, &[AuthenticationMethod])] = &[
            ("", &[Nothing, Password, Md5, ScramSha256]),
            ("scram-sha-256", &[ScramSha256]),
            ("md5,scram-sha-256", &[Md5, ScramSha256]),
            ("none", &[Nothing]),
            ("none,scram-sha-256", &[Nothing, ScramSha256]),
            ("!password", &[Nothing, Md5, ScramSha256]),
            ("!password,!md5", &[Nothing, ScramSha256]),
            ("!none", &[Password, Md5, ScramSha256]),
            ("gss,sspi,oauth", &[]),
            ("!gss", &[Nothing, Password, Md5, ScramSha256]),
        ];
        for (text, expected) in cases {
            assert_eq!(resolved(text).unwrap(), *expected, "{text}");
        }
        for text in ["scram", "md5,", "md5,!password", "!md5,password", "md5,md5", "!!md5x", " md5", "SCRAM-SHA-256"] {
            assert!(resolved(text).is_err(), "{text}");
        }
    }
}
