//! Owns the suspicion that other work slowed a measurement down, and its reasons: what the system says about its run queue.

use std::fs;
use std::time::Duration;

/// What the system says at a moment, as far as it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Of all threads of this program together.
    threads: Option<Schedule>,
    /// Runnable tasks of the machine, averaged over the last minute.
    average: Option<f64>,
}

/// What became of threads that wanted to run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Schedule {
    ran: Duration,
    /// Runnable, and waiting for a processor.
    waited: Duration,
}

/// Waiting for less than this share of the time is what a quiet machine's own services cause.
const WAITED: f64 = 0.05;

/// Rounds that differ by less than this share are alike.
const SPREAD: f64 = 0.2;

impl Load {
    /// As it is now.
    pub(super) fn now() -> Load {
        let average = fs::read_to_string("/proc/loadavg").ok();
        let average = average.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Load { threads: schedule(), average }
    }

    /// Why what was measured between two moments may be too slow; `None` where nothing speaks for it. The average before the
    /// measurement counts: the one behind it has this program in it.
    pub(super) fn suspicion(&self, after: &Load, rounds: &[f64], n_threads: usize) -> Option<String> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.suspicion_on(after, rounds, n_threads, processors)
    }

    fn suspicion_on(&self, after: &Load, rounds: &[f64], n_threads: usize, processors: usize) -> Option<String> {
        let mut reasons = Vec::new();
        let waited = self.threads.zip(after.threads).map(|(before, after)| before.share_waited(after));
        let waited = waited.filter(|share| *share > WAITED).map(|share| 100.0 * share);
        let (own, all) = (n_threads as f64, processors as f64);
        match waited {
            // They wait for each other.
            _ if n_threads > processors => reasons.push(format!("{n_threads} threads share {processors} processors")),
            Some(share) => reasons.push(format!(
                "other programs run beside it, its threads waited {share:.0} % of the time for a processor"
            )),
            None => {}
        }
        // One task more than there are processors for may be gone by now.
        if let Some(average) = self.average.filter(|average| average + own.min(all) > all + 1.0) {
            reasons.push(format!("the load average of {processors} processors was {average:.1} before"));
        }
        let (least, most) = rounds.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &x| (a.min(x), b.max(x)));
        if least < (1.0 - SPREAD) * most {
            reasons.push(format!("the rounds differ by {:.0} %", 100.0 * (most / least - 1.0)));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

impl Schedule {
    /// The share of the time between two moments that was spent waiting.
    fn share_waited(self, after: Schedule) -> f64 {
        let (ran, waited) = (after.ran.saturating_sub(self.ran), after.waited.saturating_sub(self.waited));
        waited.as_secs_f64() / (ran + waited).as_secs_f64().max(1e-9)
    }
}

/// What Linux counts for every thread: nanoseconds on a processor, nanoseconds in the run queue, and turns.
fn schedule() -> Option<Schedule> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let mut all = Schedule::default();
    for thread in threads {
        // One that has ended meanwhile is none.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().map(|number| number.parse().ok().map(Duration::from_nanos));
        all.ran += numbers.next()??;
        all.waited += numbers.next()??;
    }
    (all.ran > Duration::ZERO).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(ran: u64, waited: u64, average: f64) -> Load {
        let threads = Schedule { ran: Duration::from_millis(ran), waited: Duration::from_millis(waited) };
        Load { threads: Some(threads), average: Some(average) }
    }

    #[test]
    fn reasons_are_said_where_there_are_some() {
        let quiet = load(100, 1, 0.2);
        let says = |after: &Load, rounds: &[f64], n_threads| quiet.suspicion_on(after, rounds, n_threads, 2);
        assert_eq!(says(&load(1100, 11, 1.5), &[100.0, 95.0], 2), None);
        let waited = says(&load(600, 501, 2.5), &[100.0, 95.0], 2);
        let expected = "other programs run beside it, its threads waited 50 % of the time for a processor";
        assert_eq!(waited.as_deref(), Some(expected));
        assert!(says(&load(1100, 11, 1.5), &[100.0, 50.0], 2).unwrap().contains("the rounds differ by 100 %"));
        assert!(says(&load(1100, 11, 1.5), &[100.0, 99.0], 8).unwrap().contains("8 threads share 2 processors"));
        let busy = load(100, 1, 6.25).suspicion_on(&load(1100, 11, 6.3), &[100.0, 99.0], 2, 2).unwrap();
        assert!(busy.contains("the load average of 2 processors was 6.2 before"), "{busy}");
        // Where the system says nothing, the rounds still do.
        assert_eq!(Load::default().suspicion_on(&Load::default(), &[9.0, 9.0], 2, 2), None);
    }
}
