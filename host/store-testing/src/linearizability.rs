//! A linearizability checker for histories of concurrent calls.
//!
//! A history is a set of calls, each with the moment at which it was invoked and the moment at
//! which it returned. It is linearizable if there is an order of the calls in which each result
//! is right, and in which no call comes before one that returned before it was invoked.
//! [`check`] searches for that order with the algorithm of Wing and Gong and the memoisation of
//! Lowe, which never visits the same set of completed calls with the same state twice.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

/// A call together with its result.
pub trait Step: Debug {
    /// The state that calls read and change.
    type State: Clone + Eq + Hash + Debug;

    /// Returns the state after the call, or none if the call would have had another result in
    /// this state.
    fn apply(&self, state: &Self::State) -> Option<Self::State>;
}

/// A completed call.
#[derive(Debug, Clone)]
pub struct Call<S> {
    /// The caller, for messages.
    pub client: usize,
    /// The moment before its invocation.
    pub invoked: u64,
    /// The moment after its return.
    pub returned: u64,
    /// The call and its result.
    pub step: S,
}

/// A counter of moments, shared by all callers of one history. Unlike a clock, it never returns
/// the same moment twice, and a moment observed later is greater.
#[derive(Debug, Default)]
pub struct LogicalClock(AtomicU64);

impl LogicalClock {
    /// The next moment.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    /// Runs a call and records its moments.
    pub async fn call<S>(&self, client: usize, call: impl Future<Output = S>) -> Call<S> {
        let made = self.next();
        let step = call.await;
        Call {
            client,
            invoked: made,
            returned: self.next(),
            step,
        }
    }
}

/// A history that is not linearizable.
pub struct NotLinearizable<S: Step> {
    history: Vec<Call<S>>,
    /// The longest order found, as positions in the history.
    best: Vec<usize>,
    state: S::State,
}

impl<S: Step> NotLinearizable<S> {
    /// The candidates for the next call.
    fn candidates(&self) -> impl Iterator<Item = &Call<S>> {
        let left = || {
            let calls = self.history.iter().enumerate();
            calls.filter(|(at, _)| !self.best.contains(at))
        };
        let first_answer = left().map(|(_, call)| call.returned).min();
        let next = left().filter(move |(_, call)| Some(call.invoked) < first_answer);
        next.map(|(_, call)| call)
    }
}

impl<S: Step> Debug for NotLinearizable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, call: &Call<S>| {
            let Call {
                client,
                invoked: made,
                returned: answered,
                step,
            } = call;
            writeln!(f, "  {made:>5} to {answered:>5}, client {client}: {step:?}")
        };
        let (found, all) = (self.best.len(), self.history.len());
        writeln!(f, "no order explains these {all} calls")?;
        writeln!(f, "the longest partial order found has {found}:")?;
        for at in &self.best {
            line(f, &self.history[*at])?;
        }
        writeln!(f, "it leads to {:?}, where none of these fits:", self.state)?;
        self.candidates().try_for_each(|call| line(f, call))?;
        writeln!(f, "the history:")?;
        self.history.iter().try_for_each(|call| line(f, call))
    }
}

/// Searches for an order that explains a history from an initial state. Returns the positions
/// of the calls in that order.
///
/// # Errors
/// Fails if there is no such order.
pub fn check<S: Step>(
    first: S::State,
    mut history: Vec<Call<S>>,
) -> Result<Vec<usize>, Box<NotLinearizable<S>>> {
    history.sort_by_key(|call| call.invoked);
    let mut search = Search::new(&history);
    let mut seen = HashSet::new();
    let mut state = first.clone();
    // The calls in the order tried, with the state before each.
    let mut order: Vec<(usize, S::State)> = Vec::new();
    let mut best = (Vec::new(), first);
    let mut at = search.first();
    while order.len() < history.len() {
        match search.event(at) {
            Event::Made(call) => {
                let after = history[call].step.apply(&state).filter(|after| {
                    let done = search.done_with(call);
                    seen.insert((done, after.clone()))
                });
                let Some(after) = after else {
                    at = search.next(at);
                    continue;
                };
                order.push((call, std::mem::replace(&mut state, after)));
                if order.len() > best.0.len() {
                    let calls = order.iter().map(|(call, _)| *call);
                    best = (calls.collect(), state.clone());
                }
                search.take(call);
                at = search.first();
            }
            // This call had to come earlier and does not fit: one of the calls before it was
            // placed too early.
            Event::Answered => match order.pop() {
                Some((call, before)) => {
                    state = before;
                    at = search.backtrack(call);
                }
                None => {
                    let (best, state) = best;
                    return Err(Box::new(NotLinearizable {
                        history,
                        best,
                        state,
                    }));
                }
            },
        }
    }
    Ok(order.into_iter().map(|(call, _)| call).collect())
}

#[derive(Clone, Copy)]
enum Event {
    /// The call at this position was invoked.
    Made(usize),
    Answered,
}

/// The events of the calls that are not yet in the order, as a linked list in the order of
/// their moments.
struct Search {
    events: Vec<Event>,
    /// The successor and predecessor of each event; the last slot is the list's head and tail.
    after: Vec<usize>,
    before: Vec<usize>,
    /// The events of each call.
    of_call: Vec<(usize, usize)>,
    /// A bit for each call that is in the order.
    done: Vec<u64>,
}

impl Search {
    fn new<S>(history: &[Call<S>]) -> Search {
        let calls = history.iter().enumerate();
        let mut events: Vec<_> = calls
            .flat_map(|(at, call)| [(call.invoked, at, true), (call.returned, at, false)])
            .collect();
        events.sort_unstable();
        let mut of_call = vec![(0, 0); history.len()];
        for (place, (_, call, is_made)) in events.iter().enumerate() {
            match is_made {
                true => of_call[*call].0 = place,
                false => of_call[*call].1 = place,
            }
        }
        let event = |(_, call, is_made)| match is_made {
            true => Event::Made(call),
            false => Event::Answered,
        };
        let places = events.len() + 1;
        Search {
            events: events.into_iter().map(event).collect(),
            after: (0..places).map(|at| (at + 1) % places).collect(),
            before: (0..places).map(|at| (at + places - 1) % places).collect(),
            of_call,
            done: vec![0; history.len().div_ceil(64)],
        }
    }

    fn first(&self) -> usize {
        self.after[self.events.len()]
    }

    fn next(&self, at: usize) -> usize {
        self.after[at]
    }

    fn event(&self, at: usize) -> Event {
        self.events[at]
    }

    /// The calls in the order, plus one more.
    fn done_with(&self, call: usize) -> Vec<u64> {
        let mut done = self.done.clone();
        done[call / 64] |= 1 << (call % 64);
        done
    }

    fn take(&mut self, call: usize) {
        self.done[call / 64] |= 1 << (call % 64);
        let (made, answered) = self.of_call[call];
        for at in [made, answered] {
            self.after[self.before[at]] = self.after[at];
            self.before[self.after[at]] = self.before[at];
        }
    }

    /// Removes a call from the order. Returns the event that follows its invocation.
    fn backtrack(&mut self, call: usize) -> usize {
        self.done[call / 64] &= !(1 << (call % 64));
        let (made, answered) = self.of_call[call];
        for at in [answered, made] {
            self.after[self.before[at]] = at;
            self.before[self.after[at]] = at;
        }
        self.after[made]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One number that is read, set, and compared and swapped.
    #[derive(Debug, Clone)]
    enum Register {
        Set(u32),
        Read(u32),
        /// From, to, and whether it succeeded.
        Swap(u32, u32, bool),
        /// By one, to this result.
        Add(u32),
    }
    use Register::{Add, Read, Set, Swap};

    impl Step for Register {
        type State = u32;

        fn apply(&self, state: &u32) -> Option<u32> {
            match *self {
                Set(to) => Some(to),
                Read(found) => (found == *state).then_some(*state),
                Swap(from, to, won) if won == (from == *state) => {
                    Some(if won { to } else { *state })
                }
                Swap(..) => None,
                Add(found) => (found == state + 1).then_some(found),
            }
        }
    }

    /// Checks calls given with the moments of their invocation and return.
    fn is_linearizable(calls: &[(u64, u64, Register)]) -> bool {
        let call = |(client, (made, answered, step)): (usize, &(u64, u64, Register))| Call {
            client,
            invoked: *made,
            returned: *answered,
            step: step.clone(),
        };
        check(0, calls.iter().enumerate().map(call).collect()).is_ok()
    }

    #[test]
    fn sequential_calls_are_linearizable() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[(0, 1, Set(1)), (2, 3, Read(1))]));
        assert!(is_linearizable(&[(0, 1, Read(0)), (2, 3, Set(1))]));
        assert!(!is_linearizable(&[(0, 1, Read(1)), (2, 3, Set(1))]));
    }

    #[test]
    fn concurrent_calls_may_take_effect_in_either_order() {
        for found in [0, 1] {
            assert!(is_linearizable(&[(0, 3, Set(1)), (1, 2, Read(found))]));
        }
        // The write takes effect between the reads, before both, or after both.
        let reads = |first, second| {
            is_linearizable(&[(0, 9, Set(1)), (1, 2, Read(first)), (3, 4, Read(second))])
        };
        assert!(reads(0, 0) && reads(0, 1) && reads(1, 1));
        assert!(!reads(1, 0), "the value cannot revert");
    }

    #[test]
    fn stale_read_is_detected() {
        assert!(!is_linearizable(&[
            (0, 1, Set(1)),
            (2, 3, Set(2)),
            (4, 7, Set(3)),
            (5, 6, Read(1)),
        ]));
    }

    #[test]
    fn lost_update_is_detected() {
        // Two concurrent increments, both to 1.
        assert!(is_linearizable(&[(0, 2, Add(1)), (1, 3, Add(2))]));
        assert!(!is_linearizable(&[(0, 2, Add(1)), (1, 3, Add(1))]));
        // Both returned the right result, but one is lost later.
        assert!(!is_linearizable(&[
            (0, 2, Add(1)),
            (1, 3, Add(2)),
            (4, 5, Read(1)),
        ]));
    }

    #[test]
    fn compare_and_swap_won_twice_is_detected() {
        let swaps = |second| is_linearizable(&[(0, 2, Swap(0, 1, true)), (1, 3, second)]);
        assert!(swaps(Swap(0, 2, false)));
        assert!(!swaps(Swap(0, 2, true)));
        assert!(swaps(Swap(1, 2, true)));
        // A failed swap that nothing explains.
        assert!(!is_linearizable(&[(0, 1, Swap(0, 1, false))]));
    }

    #[test]
    fn readers_disagreeing_on_the_order_are_detected() {
        let history = |last| {
            is_linearizable(&[
                (0, 1, Set(1)),
                (2, 20, Set(2)),
                (3, 21, Set(3)),
                (4, 5, Read(2)),
                (6, 7, Read(3)),
                (8, 9, Read(last)),
            ])
        };
        assert!(history(3));
        assert!(!history(2));
    }

    #[test]
    fn failure_message_shows_the_history_and_the_dead_end() {
        let call = |made, step| Call {
            client: 7,
            invoked: made,
            returned: made + 1,
            step,
        };
        let history = vec![call(0, Set(1)), call(2, Read(1)), call(4, Read(5))];
        let shown = format!("{:?}", check(0, history).unwrap_err());
        assert!(
            shown.contains("the longest partial order found has 2"),
            "{shown}"
        );
        assert!(
            shown.contains(
                "leads to 1, where none of these fits:\n      4 to     5, client 7: Read(5)"
            ),
            "{shown}"
        );
        assert!(shown.matches("Read(1)").count() == 2, "{shown}");
    }

    /// Only one order explains these concurrent increments, and it is the last one that a
    /// search without memoisation would try.
    #[test]
    fn history_of_hundreds_of_concurrent_calls_is_checked() {
        let mut calls = Vec::new();
        for round in 0..100 {
            let at = u64::from(round) * 100;
            for client in 0..6 {
                let found = round * 6 + 6 - client;
                calls.push((
                    at + u64::from(client),
                    at + 50 + u64::from(client),
                    Add(found),
                ));
            }
        }
        assert!(is_linearizable(&calls));
        let last = calls.len() - 1;
        calls[last].2 = Add(1);
        assert!(!is_linearizable(&calls));
    }
}
