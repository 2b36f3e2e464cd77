//! The client's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), as PostgreSQL speaks it.
//!
//! The state is in the types: [`ScramClient`] → [`Challenge`] → [`ServerProof`], each consumed by the next step, so that
//! nobody is let in who did not check the server's signature. `postgres-protocol` has SCRAM too, but refuses more than
//! 100 000 iterations, and `scram_iterations` (16 and later) may ask for more.
//!
//! Randomness is an argument. Deriving a key is real work, by design: call [`Challenge::respond`] where blocking is fine.

use std::borrow::Cow;

use bytes::Bytes;
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Most rounds of hashing that a server may ask for: some seconds of work. PostgreSQL's default is 4096. The server
/// names the number before it has proved anything, so there must be an end.
pub const MOST_ITERATIONS: u32 = 10_000_000;

/// Bytes of randomness in a client's nonce, as many as PostgreSQL's own client takes.
pub const NONCE_LENGTH: usize = 18;

type HmacSha256 = Hmac<Sha256>;
type Key = [u8; 32];

/// Whether the exchange is tied to the TLS connection that it runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// This client could not: there is no TLS, it was switched off, or the certificate's signature has no hash.
    Unsupported,
    /// This client could, but the server did not offer it; a server that did offer it detects that its offer was removed.
    NotOffered,
    /// By the hash of the server's certificate (`tls-server-end-point`, RFC 5929).
    TlsServerEndPoint(Vec<u8>),
}

impl ChannelBinding {
    /// The mechanism to choose.
    pub const fn mechanism(&self) -> &'static str {
        match self {
            Self::TlsServerEndPoint(_) => SCRAM_SHA_256_PLUS,
            Self::Unsupported | Self::NotOffered => SCRAM_SHA_256,
        }
    }

    const fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::TlsServerEndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::TlsServerEndPoint(hash) => hash,
            Self::Unsupported | Self::NotOffered => &[],
        }
    }
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The server's message is none.
    #[error("the server sent a malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The server does not answer this client, but somebody else, or an earlier exchange.
    #[error("the server's SCRAM nonce does not continue the client's")]
    ForeignNonce,
    /// The server asks for too much work.
    #[error("the server asks for {0} SCRAM iterations, at most {MOST_ITERATIONS} are done")]
    TooManyIterations(u32),
    /// The server gave up.
    #[error("the server ended the SCRAM exchange: {0}")]
    Refused(String),
    /// The server let the client in without knowing its password: it is not the server it pretends to be.
    #[error("the server's SCRAM signature is wrong: it does not know the password")]
    WrongSignature,
}

/// An exchange that is about to begin.
pub struct ScramClient {
    binding: ChannelBinding,
    nonce: String,
    /// The client's first message without the header for channel binding.
    bare: String,
}

impl ScramClient {
    /// Begins an exchange. `random` must be fresh for each, from a secure source.
    pub fn new(binding: ChannelBinding, random: [u8; NONCE_LENGTH]) -> Self {
        // PostgreSQL takes the user from the startup message and ignores a name here.
        Self::with("", binding, BASE64.encode(&random))
    }

    fn with(user: &str, binding: ChannelBinding, nonce: String) -> Self {
        Self { binding, bare: format!("n={user},r={nonce}"), nonce }
    }

    /// The client's first message.
    pub fn first_message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare)
    }

    /// Takes the server's first message. Nothing expensive happens here.
    pub fn challenge(self, message: &Bytes) -> Result<Challenge, ScramError> {
        let text = str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
        let mut attributes = text.split(',');
        let mut next = |name, problem| {
            let value = attributes.next().and_then(|attribute| attribute.strip_prefix(name));
            value.ok_or(ScramError::Malformed(problem))
        };
        let nonce = next("r=", "it has no nonce")?;
        let salt = next("s=", "it has no salt")?;
        let iterations = next("i=", "it has no iteration count")?;
        if attributes.next().is_some() {
            return Err(ScramError::Malformed("something follows the iteration count"));
        }
        // Of equal length, the server would have added nothing of its own.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::ForeignNonce);
        }
        if !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed("the nonce has other characters than printable ones"));
        }
        let salt = BASE64.decode(salt.as_bytes()).ok().filter(|salt| !salt.is_empty());
        let salt = salt.ok_or(ScramError::Malformed("the salt is not base64"))?;
        let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations: Option<u32> = if digits { iterations.parse().ok() } else { None };
        let iterations = iterations.filter(|count| *count > 0);
        let iterations = iterations.ok_or(ScramError::Malformed("the iteration count is none"))?;
        if iterations > MOST_ITERATIONS {
            return Err(ScramError::TooManyIterations(iterations));
        }
        let bound = [self.binding.header().as_bytes(), self.binding.data()].concat();
        let final_without_proof = format!("c={},r={nonce}", BASE64.encode(&bound));
        let signed = format!("{},{text},{final_without_proof}", self.bare);
        Ok(Challenge { salt, iterations, final_without_proof, signed })
    }
}

/// What the server wants to see proved.
pub struct Challenge {
    salt: Vec<u8>,
    iterations: u32,
    final_without_proof: String,
    /// What both sides sign: RFC 5802's `AuthMessage`.
    signed: String,
}

impl Challenge {
    /// Rounds of hashing that a response takes.
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Proves knowledge of the password: the client's last message, and what the server must prove in return.
    ///
    /// Takes time in proportion to [`Self::iterations`].
    pub fn respond(self, password: &[u8]) -> (String, ServerProof) {
        let salted_password = derive(&prepare(password), &self.salt, self.iterations);
        let client_key = hmac(&salted_password, b"Client Key");
        let stored_key: Key = Sha256::digest(client_key).into();
        let mut proof = hmac(&stored_key, self.signed.as_bytes());
        for (proof, key) in proof.iter_mut().zip(client_key) {
            *proof ^= key;
        }
        let server_key = hmac(&salted_password, b"Server Key");
        let message = format!("{},p={}", self.final_without_proof, BASE64.encode(&proof));
        (message, ServerProof { server_key, signed: self.signed })
    }
}

/// What is left to do: only a server that knows the password's hash can sign the exchange.
pub struct ServerProof {
    server_key: Key,
    signed: String,
}

impl ServerProof {
    /// Takes the server's last message; only after `Ok` is it the right server.
    pub fn check(self, message: &Bytes) -> Result<(), ScramError> {
        let text = str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))?;
        if let Some(error) = text.strip_prefix("e=") {
            return Err(ScramError::Refused(error.chars().filter(|c| !c.is_control()).take(80).collect()));
        }
        let signature = text.strip_prefix("v=").ok_or(ScramError::Malformed("it has no signature"))?;
        let signature =
            BASE64.decode(signature.as_bytes()).map_err(|_| ScramError::Malformed("the signature is not base64"))?;
        // Compares in constant time.
        keyed(&self.server_key)
            .chain_update(self.signed.as_bytes())
            .verify_slice(&signature)
            .map_err(|_| ScramError::WrongSignature)
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    keyed(key).chain_update(message).finalize().into_bytes().into()
}

/// PBKDF2 with HMAC-SHA-256 and one block of output: RFC 5802's `Hi`.
fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    // Cloned for every round: hashing the key again would double the work.
    let keyed = keyed(password);
    let mut last: Key = keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]).finalize().into_bytes().into();
    let mut sum = last;
    for _ in 1..iterations {
        last = keyed.clone().chain_update(last).finalize().into_bytes().into();
        for (sum, last) in sum.iter_mut().zip(last) {
            *sum ^= last;
        }
    }
    sum
}

/// The password as PostgreSQL hashes it: prepared by SASLprep, or raw where that is not possible (`common/saslprep.c`).
fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let prepared = str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    match prepared {
        Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
        // Unchanged, not UTF-8, prohibited, or nothing left of it.
        _ => Cow::Borrowed(password),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of RFC 7677.
    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client(binding: ChannelBinding) -> ScramClient {
        ScramClient::with("user", binding, CLIENT_NONCE.to_owned())
    }

    fn challenge(server_first: &str) -> Result<Challenge, ScramError> {
        client(ChannelBinding::Unsupported).challenge(&Bytes::copy_from_slice(server_first.as_bytes()))
    }

    fn proof() -> (String, ServerProof) {
        challenge(SERVER_FIRST).unwrap().respond(b"pencil")
    }

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        assert_eq!(client(ChannelBinding::Unsupported).first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (message, proof) = proof();
        assert_eq!(
            message,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        proof.check(&Bytes::from("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")).unwrap();
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        for message in [
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
            "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            "v=",
            "v=6rri",
        ] {
            let result = proof().1.check(&Bytes::from(message));
            assert!(matches!(result, Err(ScramError::WrongSignature | ScramError::Malformed(_))), "{message}");
        }
        assert_eq!(proof().1.check(&Bytes::from("e=other-error")), Err(ScramError::Refused("other-error".to_owned())));
        for message in ["", "x", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=,x=y"] {
            assert!(matches!(proof().1.check(&Bytes::from(message)), Err(ScramError::Malformed(_))), "{message}");
        }
    }

    #[test]
    fn channel_binding_is_in_the_mechanism_the_header_and_the_proof() {
        let hash = [0xAB; 32];
        let bound_to = ChannelBinding::TlsServerEndPoint(hash.to_vec());
        for (binding, mechanism, header, data) in [
            (ChannelBinding::Unsupported, SCRAM_SHA_256, "n,,", &[][..]),
            (ChannelBinding::NotOffered, SCRAM_SHA_256, "y,,", &[]),
            (bound_to, SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", &hash),
        ] {
            assert_eq!(binding.mechanism(), mechanism);
            let client = client(binding);
            assert!(client.first_message().starts_with(&format!("{header}n=user,r=")));
            let (message, _) = client.challenge(&Bytes::from(SERVER_FIRST)).unwrap().respond(b"pencil");
            let bound = BASE64.encode(&[header.as_bytes(), data].concat());
            assert!(message.starts_with(&format!("c={bound},r=")), "{message}");
        }
    }

    #[test]
    fn the_server_must_continue_this_exchange() {
        for nonce in ["", "x", CLIENT_NONCE, "x-rOprNGfwEbeRWgbNEkqO"] {
            let result = challenge(&format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1")).map(|_| ());
            assert_eq!(result, Err(ScramError::ForeignNonce), "{nonce}");
        }
    }

    #[test]
    fn work_has_a_bound() {
        let with =
            |iterations: &str| challenge(&format!("r={CLIENT_NONCE}x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i={iterations}"));
        assert_eq!(with("10000000").unwrap().iterations(), MOST_ITERATIONS);
        assert_eq!(with("10000001").map(|_| ()), Err(ScramError::TooManyIterations(10_000_001)));
        for iterations in ["0", "", "+1", "-1", "4096x", "4294967296", "1,m=x"] {
            assert!(matches!(with(iterations), Err(ScramError::Malformed(_))), "{iterations}");
        }
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        // A soft hyphen goes, a no-break space becomes a space, compatibility forms are resolved.
        assert_eq!(&*prepare("I\u{AD}X".as_bytes()), b"IX");
        assert_eq!(&*prepare("a\u{A0}b".as_bytes()), b"a b");
        assert_eq!(&*prepare("\u{2168}".as_bytes()), b"IX");
        // Prohibited, not UTF-8, nothing left: as it is.
        assert_eq!(&*prepare(b"a\x07b"), b"a\x07b");
        assert_eq!(&*prepare(b"a\xFFb"), b"a\xFFb");
        assert_eq!(&*prepare("\u{AD}".as_bytes()), "\u{AD}".as_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_server_are_an_answer_or_an_error(message: Vec<u8>, tail in "[rsi=,a-zA-Z0-9+/]{0,40}") {
            let message = Bytes::from(message);
            let _ = client(ChannelBinding::Unsupported).challenge(&message);
            let _ = challenge(&format!("r={CLIENT_NONCE}{tail}"));
            let key = || ServerProof { server_key: [0; 32], signed: String::new() };
            let _ = key().check(&message);
            let _ = key().check(&Bytes::from(format!("v={tail}")));
        }
    }
}
