//! Every scenario, one module per subject.

mod faults;
mod harness;
