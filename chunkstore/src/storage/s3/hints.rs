//! What to do about a bucket's refusal.

use crate::error::ErrorKind;

/// The hint for a failure; the codes that are not S3's come from [`super::failure`].
pub(super) fn hint(status: Option<u16>, code: &str, kind: ErrorKind) -> Option<&'static str> {
    if kind == ErrorKind::Full {
        return Some("free space in the bucket or raise its quota, then run the command again: nothing is lost");
    }
    let hint = match code {
        "NoCredentials" => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role that may use \
             the bucket"
        }
        "InvalidAccessKeyId" => {
            "check AWS_ACCESS_KEY_ID: this service does not know the key; is the endpoint the right one?"
        }
        "SignatureDoesNotMatch" => {
            "check AWS_SECRET_ACCESS_KEY: it does not belong to the access key; behind a proxy, check that it passes \
             the Host header unchanged"
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            "the temporary credentials ended: renew AWS_SESSION_TOKEN, or use a role or profile that renews itself"
        }
        "RequestTimeTooSkewed" => "set this machine's clock: run NTP",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "set the bucket's region in the options of the bucket, or AWS_REGION"
        }
        "NoSuchBucket" => "check the bucket's name and the endpoint, or let `walkeep init --create-bucket` create it",
        "InvalidBucketName" => "bucket names have 3 to 63 lower-case letters, digits, '.' and '-'",
        "InvalidObjectState" => "the object lies in an archive class: restore it there first",
        "InvalidStorageClass" => "the service does not know the storage class of pack_class or wal_class",
        "NotS3" => "check the endpoint: the service that answers there is not S3",
        "Dns" => "check the endpoint's host name; where buckets are no host names, set path_style = true",
        "Refused" => "check the endpoint's port, and that the service runs",
        "Connect" => "check the endpoint, the network and the firewall",
        "Tls" => {
            "check that the endpoint speaks https and its certificate is for this host; for an authority of your own, \
             set ca_file"
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => FORBIDDEN,
        _ => match status {
            Some(403) => FORBIDDEN,
            Some(400) if code.is_empty() => "check whether the endpoint is to be http:// or https://",
            Some(301 | 307) => "set the bucket's region in the options of the bucket, or AWS_REGION",
            _ => return None,
        },
    };
    Some(hint)
}

const FORBIDDEN: &str = "grant these credentials s3:ListBucket on the bucket, and s3:GetObject and s3:PutObject on its \
                         objects (s3:DeleteObject only where backups expire)";
