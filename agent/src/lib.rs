//! The program beside the server: archives WAL, takes base backups, and answers what is there.
//!
//! - [`cli`] is what was typed, [`config`] what was configured; past them there are only checked values.
//! - [`commands`] has one file per verb; each reads as its story.
//! - [`backup`] copies a running cluster; [`archive`] takes one WAL file; [`stream`]
//!   receives WAL as it is written; [`postgres`] talks to servers; [`daemon`] is what runs all the time.

pub mod archive;
pub mod backup;
pub mod cli;
pub mod commands;
pub mod config;
pub mod context;
pub mod daemon;
pub mod postgres;
pub mod rates;
pub mod repository;
pub mod schedule;
pub mod stop_flag;
pub mod stream;
pub mod supervise;
