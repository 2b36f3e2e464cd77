//! The hash of a certificate that SCRAM binds to: `tls-server-end-point` of RFC 5929.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The hash of a certificate (DER) by the algorithm that it is signed with.
///
/// MD5 and SHA-1 give way to SHA-256 (RFC 5929 §4.1). `None` where the signature has no hash of its own, as with
/// Ed25519, or an unknown one: then there is no channel binding.
pub fn channel_binding(certificate_der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
    let signature = &certificate.signature_algorithm;
    let hash = match SignatureAlgorithm::try_from(signature) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => signature.algorithm.to_id_string(),
    };
    Some(match Hash::of(&hash)? {
        Hash::Sha224 => Sha224::digest(certificate_der).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate_der).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate_der).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate_der).to_vec(),
    })
}

enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// From the object identifier of a signature algorithm, or of a hash as RSA-PSS names it (RFC 4055, 5758, 8017).
    fn of(identifier: &str) -> Option<Self> {
        Some(match identifier {
            // md5WithRSA, sha1WithRSA, ecdsaWithSha1, dsaWithSha1 and SHA-1 itself.
            "1.2.840.113549.1.1.4"
            | "1.2.840.113549.1.1.5"
            | "1.2.840.10045.4.1"
            | "1.2.840.10040.4.3"
            | "1.3.14.3.2.26" => Self::Sha256,
            "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
                Self::Sha224
            }
            "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.3.2" | "2.16.840.1.101.3.4.2.1" => {
                Self::Sha256
            }
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => Self::Sha384,
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => Self::Sha512,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    /// Name, expected hash and certificate of each in the file.
    fn certificates() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        let text = include_str!("fixtures/certificates.txt");
        let body = text.split_once('\n').unwrap().1;
        let blocks = body.split_inclusive("-----END CERTIFICATE-----\n");
        blocks
            .map(|block| {
                let (first, pem) = block.split_once('\n').unwrap();
                let (name, hash) = first.split_once(' ').unwrap();
                (name, hash, CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec())
            })
            .collect()
    }

    #[test]
    fn hashes_as_openssl_does() {
        let certificates = certificates();
        assert_eq!(certificates.len(), 16);
        for (name, expected, der) in certificates {
            let hex =
                channel_binding(&der).map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            assert_eq!(hex.as_deref().unwrap_or("none"), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        assert_eq!(channel_binding(b""), None);
        let (_, _, der) = certificates().remove(0);
        assert_eq!(channel_binding(&der[..der.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_survived(
            which in 0..16_usize, at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let (_, _, mut der) = certificates().remove(which);
            let at = at.index(der.len());
            der[at] = byte;
            let _ = channel_binding(&der);
        }
    }
}
