//! Every scenario, one module per subject.

mod archive_push;
mod backup_faults;
mod faults;
mod harness;
