//! The mirrors' queues, and the room they make in the local repository.

use std::time::{Duration, Instant, SystemTime};

use walkeep_chunkstore::console::Bytes;
use walkeep_chunkstore::mirror::{Lag, MirrorQueue};

use crate::context::Context;
use crate::repository::Ask;
use crate::stop_flag::StopFlag;

/// How often a mirror is looked at while the agent ends.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// Pause after a mirror that could not be reached at the start.
const RETRY: Duration = Duration::from_secs(10);
/// How often old objects are looked for: once in a window, within these bounds.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
const FORGET_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// All mirrors of the configured repository.
pub struct Mirrors {
    queues: Vec<MirrorQueue>,
    stop: StopFlag,
}

impl Mirrors {
    /// A queue for each mirror; nothing runs yet.
    pub fn new(context: &Context) -> Self {
        let mirrored = context.storages.mirrored.as_ref();
        let queues = mirrored.into_iter().flat_map(|mirrored| {
            (0..mirrored.remotes().len()).map(|number| MirrorQueue::new(mirrored.clone(), number))
        });
        Self { queues: queues.collect(), stop: StopFlag::default() }
    }

    /// How far each mirror is behind, by the last look, which is at most a second old unless the mirror is in trouble.
    pub fn lags(&self) -> Vec<Lag> {
        self.queues.iter().map(MirrorQueue::lag).collect()
    }

    /// Works until [`Mirrors::stop`]. A mirror that cannot be reached is tried again and again.
    pub fn run(&self, context: &Context) {
        while let Err(error) = context.join_mirrors(Ask::Identity) {
            tracing::warn!("mirrors wait: {error:#}");
            self.queues.iter().for_each(|queue| queue.note(format!("{error:#}")));
            if self.wait_for_stop(RETRY) {
                return;
            }
        }
        std::thread::scope(|scope| {
            for queue in &self.queues {
                scope.spawn(|| queue.run());
            }
            self.forget(context);
        });
    }

    /// Removes here what the mirrors have and the window has passed.
    fn forget(&self, context: &Context) {
        let windows = context.config.mirrors().unwrap_or_default();
        let window = windows.iter().filter_map(|mirror| mirror.local_window).max();
        let every = window.map_or(FORGET_EVERY, |window| window.clamp(FORGET_AT_MOST_EVERY, FORGET_EVERY));
        loop {
            if let (Some(window), Some(mirrored)) = (window, &context.storages.mirrored) {
                match mirrored.forget_older(window, SystemTime::now()) {
                    Ok((0, _)) => {}
                    Ok((objects, bytes)) => tracing::info!("{objects} objects left the window: {} free", Bytes(bytes)),
                    Err(error) => tracing::warn!("old objects stay here: {error}"),
                }
            }
            if self.wait_for_stop(every) {
                return;
            }
        }
    }

    /// Waits until every mirror has everything, or cannot be reached, or this long.
    pub fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let is_behind = |lag: &Lag| lag.compared && lag.error.is_none() && lag.objects > 0;
        loop {
            // What was written last must not be overlooked.
            self.queues.iter().for_each(MirrorQueue::refresh);
            let are_behind = self.lags().iter().any(is_behind);
            if !are_behind || Instant::now() >= deadline || self.wait_for_stop(DRAIN_LOOK) {
                return;
            }
        }
    }

    /// Ends [`Mirrors::run`] when what is under way is done.
    pub fn stop(&self) {
        self.stop.stop();
        self.queues.iter().for_each(MirrorQueue::stop);
    }

    /// Waits this long; true as soon as the end has come.
    pub fn wait_for_stop(&self, time: Duration) -> bool {
        self.stop.wait(time)
    }
}
