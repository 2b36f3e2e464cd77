//! Progress of long work: a bar on a terminal, a line now and then elsewhere, nothing when nobody wants it.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Bytes, Elapsed};

/// Work that ends sooner shows nothing.
const SILENT: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const LINE_EVERY: u64 = 30;

/// Whether progress is shown at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// On stderr, in the form that fits it.
    Progress,
    /// Not at all: `--quiet` or `--json`.
    Nothing,
}

/// The progress of one piece of work, counted in bytes. Shared by threads.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    started: Instant,
    total: AtomicU64,
    done: AtomicU64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    None,
    Bar { bar: ProgressBar, visible: AtomicBool },
    Lines { next: AtomicU64 },
}

impl Progress {
    /// Starts the work `what` of about `total` bytes; 0 if nobody knows.
    pub fn start(what: &'static str, total: u64, show: Show) -> Self {
        let form = match show {
            Show::Nothing => Form::None,
            Show::Progress if std::io::stderr().is_terminal() => {
                Form::Bar { bar: bar(what, total), visible: AtomicBool::new(false) }
            }
            Show::Progress => Form::Lines { next: AtomicU64::new(LINE_EVERY) },
        };
        Self { what, started: Instant::now(), total: AtomicU64::new(total), done: AtomicU64::new(0), form }
    }

    /// Corrects how many bytes there are in all.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        if let Form::Bar { bar, .. } = &self.form {
            bar.set_length(total);
        }
    }

    /// Counts bytes that are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        match &self.form {
            Form::None => {}
            Form::Bar { bar, visible } => {
                bar.inc(bytes);
                if !visible.load(Ordering::Relaxed) && self.started.elapsed() > SILENT {
                    visible.store(true, Ordering::Relaxed);
                    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
                }
            }
            Form::Lines { next } => {
                let (seconds, due) = (self.started.elapsed().as_secs(), next.load(Ordering::Relaxed));
                let later = seconds + LINE_EVERY;
                if seconds >= due && next.compare_exchange(due, later, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    let _ = writeln!(std::io::stderr().lock(), "{}", self.line(done));
                }
            }
        }
    }

    fn line(&self, done: u64) -> String {
        let (elapsed, total) = (self.started.elapsed(), self.total.load(Ordering::Relaxed));
        let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let mut line = format!("{}: {}", self.what, Bytes(done));
        if total > 0 {
            line.push_str(&format!(" of {}", Bytes(total)));
        }
        line.push_str(&format!(", {}/s", Bytes(rate)));
        if let Some(left) = total.saturating_sub(done).checked_div(rate).filter(|_| total > 0) {
            line.push_str(&format!(", {} left", Elapsed(Duration::from_secs(left))));
        }
        line
    }

    /// Bytes done so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the work and removes the bar. Returns how long it took.
    pub fn finish(&self) -> Duration {
        if let Form::Bar { bar, .. } = &self.form {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Whatever is printed next must not land behind a half-drawn bar.
        self.finish();
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = if total > 0 {
        "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
    } else {
        "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}"
    };
    let bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_left() {
        let progress = Progress::start("restoring", 4 << 30, Show::Nothing);
        progress.add(1 << 30);
        let line = progress.line(progress.done());
        assert!(line.starts_with("restoring: 1.00 GiB of 4.00 GiB, "), "{line}");
        assert!(line.ends_with(" left"), "{line}");
    }
}
