//! The test harness: real PostgreSQL servers, the real binaries, faults, and judges of what came back.
//!
//! A scenario is a function over a major version that reads like a procedure; [`scenario!`] turns it into one test
//! per major. Scenarios live in `tests/scenarios/`, one file per subject.
//!
//! ```ignore
//! fn comes_back_at_a_marker(major: MajorVersion) {
//!     let cluster = Cluster::create(major);
//!     let walkeep = Walkeep::set_up(&cluster);
//!     let mut workload = Workload::seeded(Seed::take());
//!     workload.populate(&cluster);
//!     walkeep.backup(&[]);
//!     let marker = create_marker(&cluster, "before the mistake");
//!     let expected = Digest::of(&cluster);
//!     cluster.sql("drop table gin_rows");
//!     cluster.archive_everything();
//!     let restored = walkeep.restore().target_time(&marker).promoted();
//!     expected.assert_recovered(&Digest::of(&restored));
//!     amcheck(&restored);
//! }
//! scenario!(per_major, comes_back_at_a_marker);
//! ```
//!
//! What a scenario can rely on:
//! - Failures are panics that say what was run and what came out; a server's log is printed when its test panics.
//! - Nothing stays behind: dropping a value stops its processes and removes its files. `WALKEEP_TEST_KEEP=1` keeps files.
//! - Servers and binaries run as [`user::TestUser`], never as root, so that permissions mean something.
//! - Randomness comes from a [`seed::Seed`], which is printed; `WALKEEP_SEED=<n>` replays it.
//! - Waiting is for a condition, with a deadline ([`wait`]), never for an amount of time.
//!
//! | variable | meaning |
//! |---|---|
//! | `WALKEEP_PG_DIR` | where `scripts/postgres-servers` put the servers |
//! | `WALKEEP_S3_DIR` | where `scripts/s3-servers` put the S3 servers |
//! | `WALKEEP_TOOLS_DIR` | where `scripts/deploy-tools` put Prometheus |
//! | `WALKEEP_BIN_DIR` | where `walkeep` and `walkeep-restore` are; default: beside this build |
//! | `WALKEEP_FULL` | `1`: longer campaigns, and Garage among the S3 servers |
//! | `WALKEEP_SEED` | the seed to replay |
//! | `WALKEEP_TEST_DIR` | where scratch directories go; default: the system's |
//! | `WALKEEP_TEST_USER` | who runs servers when the tests run as root; default `postgres`, else `nobody` |
//! | `WALKEEP_TEST_KEEP` | `1`: keep scratch directories |
//!
//! Reading order: [`servers`] → [`cluster`] → [`workload`] → [`compare`] → [`walkeep`] → [`faults`] → [`s3`] → [`documents`].
#![allow(clippy::panic, reason = "a harness reports failures by panicking; it is linked into tests only")]

pub mod binaries;
pub mod cluster;
pub mod compare;
pub mod documents;
pub mod faults;
pub mod output;
pub mod prometheus;
pub mod s3;
pub mod seed;
pub mod servers;
pub mod sql;
pub mod tls;
pub mod user;
pub mod wait;
pub mod walkeep;
pub mod workload;

pub use cluster::{Cluster, ClusterOptions, StopMode};
pub use compare::{Digest, amcheck, checksums};
pub use output::Output;
pub use prometheus::Prometheus;
pub use seed::Seed;
pub use servers::{Server, Tools};
pub use sql::Session;
pub use user::Scratch;
pub use wait::{poll, wait_until};
pub use walkeep::Walkeep;
pub use walkeep_proto::version::MajorVersion;
pub use workload::{Marker, Workload, create_marker};

/// Whether this is the long run, `scripts/test --full`.
pub fn is_full_run() -> bool {
    std::env::var_os("WALKEEP_FULL").is_some_and(|value| value == "1")
}

/// Turns a scenario, a `fn name(major: MajorVersion)` in the same module, into tests `name::v13` … `name::v18`.
///
/// `scenario!(per_major, name)` makes one for each supported major; `scenario!([V13, V18], name)` for the majors
/// named, where the subject does not differ between them. `scenario!([V13, V18], full [V14, V15, V16, V17], name)` also
/// makes `v14_full` and so on, which only `scripts/test --full` runs.
#[macro_export]
macro_rules! scenario {
    (per_major, $name:ident) => {
        mod $name {
            $crate::scenario!(@test $name, v13, V13);
            $crate::scenario!(@test $name, v14, V14);
            $crate::scenario!(@test $name, v15, V15);
            $crate::scenario!(@test $name, v16, V16);
            $crate::scenario!(@test $name, v17, V17);
            $crate::scenario!(@test $name, v18, V18);
        }
    };
    ([$($major:ident),+ $(,)?], $name:ident) => {
        mod $name {
            $($crate::scenario!(@one $name, $major);)+
        }
    };
    ([$($major:ident),+ $(,)?], full [$($other:ident),+ $(,)?], $name:ident) => {
        mod $name {
            $($crate::scenario!(@one $name, $major);)+
            $($crate::scenario!(@full $name, $other);)+
        }
    };
    (@full $name:ident, V13) => { $crate::scenario!(@test $name, v13_full, V13); };
    (@full $name:ident, V14) => { $crate::scenario!(@test $name, v14_full, V14); };
    (@full $name:ident, V15) => { $crate::scenario!(@test $name, v15_full, V15); };
    (@full $name:ident, V16) => { $crate::scenario!(@test $name, v16_full, V16); };
    (@full $name:ident, V17) => { $crate::scenario!(@test $name, v17_full, V17); };
    (@full $name:ident, V18) => { $crate::scenario!(@test $name, v18_full, V18); };
    (@one $name:ident, V13) => { $crate::scenario!(@test $name, v13, V13); };
    (@one $name:ident, V14) => { $crate::scenario!(@test $name, v14, V14); };
    (@one $name:ident, V15) => { $crate::scenario!(@test $name, v15, V15); };
    (@one $name:ident, V16) => { $crate::scenario!(@test $name, v16, V16); };
    (@one $name:ident, V17) => { $crate::scenario!(@test $name, v17, V17); };
    (@one $name:ident, V18) => { $crate::scenario!(@test $name, v18, V18); };
    (@test $name:ident, $test:ident, $major:ident) => {
        #[test]
        fn $test() {
            super::$name($crate::MajorVersion::$major);
        }
    };
}
