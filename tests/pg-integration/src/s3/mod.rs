//! S3 servers to test against, a proxy that does to their traffic what networks and clouds do, and a client to look.
//!
//! ```ignore
//! let server = S3Server::start(Kind::Rclone);
//! server.create_bucket("backups");
//! let proxy = Proxy::before(&server);
//! let walkeep = Walkeep::new(&cluster).repository_at("s3://backups/main"); // endpoint: proxy.url(); + server.env()
//! let slow_down = proxy.plan(Rule::new(Fault::SLOW_DOWN).on(&[Operation::PutObject]).times(3));
//! walkeep.backup(&[]);
//! assert_eq!(slow_down.hits(), 3);
//! ```
//!
//! | server | what it is | `If-None-Match: *` |
//! |---|---|---|
//! | [`Kind::Rclone`] | `rclone serve s3`, a process | ignored |
//! | [`Kind::S3s`] | s3s-fs in this process; can speak TLS, obey policies, lie ([`S3sOptions`]) | honoured |
//! | [`Kind::Garage`] | one node of Garage, `WALKEEP_FULL=1` only | ignored |
//!
//! All check signatures, and all can be stopped and started again on their port. `scripts/s3-servers` prepares the
//! programs; `WALKEEP_S3_DIR` says where. A missing server fails; it never looks like a pass.
//!
//! Reading order: [`server`] → [`client`] → [`proxy`] → [`in_process`].

pub mod client;
mod conditional;
mod garage;
pub(crate) mod gate;
pub mod in_process;
mod locks;
pub mod policy;
pub(crate) mod process;
mod programs;
pub mod proxy;
mod rules;
pub mod server;
mod store;
mod tls;

pub use client::{Client, Refusal};
pub use conditional::Conditional;
pub use garage::{Garage, Rights};
pub use in_process::S3sOptions;
pub use locks::Retention;
pub use policy::Policy;
pub(crate) use programs::rclone;
pub use proxy::{Counts, Entry, Fault, Operation, Planned, Proxy, Rule, S3Error};
pub use rules::Attempt;
pub use server::{Credentials, Kind, S3Server};
