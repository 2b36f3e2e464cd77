//! The same work on many items, several at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Does `work` on every item, on at most `threads` threads at once; results are in the order of the items. For reads that
/// wait for a network, see [`Storage::parallel_reads`](crate::storage::Storage::parallel_reads).
pub fn side_by_side<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = Mutex::new(items.iter().enumerate());
    let take = || next.lock().next();
    let some = || std::iter::from_fn(take).map(|(index, item)| (index, work(item))).collect::<Vec<_>>();
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(some)).collect();
        let mut done = some();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Does `work` on the items in their order, on at most `threads` threads at once, until one fails; gives a failure.
pub(crate) fn for_each<T: Sync>(items: &[T], threads: usize, work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let some = || -> Result<()> {
        while !failed.load(Ordering::Relaxed)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    let threads = threads.clamp(1, items.len().max(1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        let died = || Err(Error::Invalid("a worker thread died".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).fold(Ok(()), Result::and)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order_and_work_is_shared() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [0, 1, 3, 200] {
            assert_eq!(side_by_side(&items, threads, |item| item * 2), (0..200).step_by(2).collect::<Vec<_>>());
        }
        assert_eq!(side_by_side(&[0; 0], 4, |item| *item), [0; 0]);
        // Comes to an end only if all four are at work at once.
        let barrier = Barrier::new(4);
        side_by_side(&items[..4], 4, |_| barrier.wait());
    }

    #[test]
    fn a_failure_is_given_and_ends_the_work() {
        let items: Vec<usize> = (0..100).collect();
        let done = AtomicUsize::new(0);
        let count = |_: &usize| {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        for_each(&items, 3, count).unwrap();
        assert_eq!(done.swap(0, Ordering::SeqCst), 100);
        let refuse = |item: &usize| if *item == 5 { Err(Error::Stopped) } else { count(item) };
        assert!(matches!(for_each(&items, 1, refuse), Err(Error::Stopped)));
        assert_eq!(done.into_inner(), 5, "nothing after the failure");
    }
}
