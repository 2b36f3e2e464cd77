//! Repositories in buckets, on real S3 servers: the whole life, mirrors, outages, sudden death, other tools.

mod crash;
mod life;
mod matrix;
mod mirror;
mod policies;
mod probe;
mod requests;
mod rivals;
mod sync;
mod wrong;

use walkeep_pg_integration::s3::S3Server;
use walkeep_pg_integration::{Cluster, MajorVersion, Walkeep};

/// The bucket of nearly every scenario.
pub const BUCKET: &str = "walkeep-test";
/// A repository in it, not at its root.
pub const URL: &str = "s3://walkeep-test/pg/main";

/// A cluster whose `archive_command` can reach the server at `url`.
pub fn cluster(server: &S3Server, major: MajorVersion) -> Cluster {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "64MB").initdb();
    for (name, value) in server.env() {
        cluster.environment(name, value);
    }
    cluster.start();
    cluster
}

/// Walkeep for a cluster, with the server's credentials and `endpoint`, which may be a proxy's.
pub fn walkeep(cluster: &Cluster, server: &S3Server, endpoint: &str) -> Walkeep {
    let walkeep =
        server.env().into_iter().fold(Walkeep::new(cluster), |walkeep, (name, value)| walkeep.environment(name, value));
    walkeep.environment("WALKEEP_MIRROR_ENDPOINT", endpoint)
}
