//! The order of writes: apps take turns, and the writes of one app keep their order.

use super::writer::Job;
use kvasm_core::AppId;
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;

/// The maximum number of writes that are taken from the channel ahead of their turn.
const WAITING_MAX: usize = 1024;

/// The receiving end of the writer's channel. Regardless of the number and size of its writes, an
/// app gets one turn at a time.
pub(super) struct FairQueue {
    channel: mpsc::Receiver<Box<dyn Job>>,
    waiting: HashMap<Option<AppId>, VecDeque<Box<dyn Job>>>,
    /// Those with waiting writes, each once, the next one first. Writes of no app take turns as if
    /// they belonged to one.
    order: VecDeque<Option<AppId>>,
    count: usize,
}

impl FairQueue {
    pub(super) fn new(channel: mpsc::Receiver<Box<dyn Job>>) -> FairQueue {
        FairQueue {
            channel,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    /// Returns the next write, waiting for one; `None` once the channel is closed.
    pub(super) fn wait(&mut self) -> Option<Box<dyn Job>> {
        self.pop().or_else(|| self.channel.blocking_recv())
    }

    /// Returns the next write, if there is one.
    pub(super) fn next(&mut self) -> Option<Box<dyn Job>> {
        self.gather();
        self.pop()
    }

    /// Receives the writes that have arrived meanwhile, so that they take turns with the others.
    pub(super) fn gather(&mut self) {
        while self.count < WAITING_MAX
            && let Ok(job) = self.channel.try_recv()
        {
            let app = job.work().app;
            let of_app = self.waiting.entry(app).or_default();
            if of_app.is_empty() {
                self.order.push_back(app);
            }
            of_app.push_back(job);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Box<dyn Job>> {
        let app = self.order.pop_front()?;
        let of_app = self.waiting.get_mut(&app)?;
        let job = of_app.pop_front()?;
        self.count -= 1;
        match of_app.is_empty() {
            true => drop(self.waiting.remove(&app)),
            false => self.order.push_back(app),
        }
        Some(job)
    }
}
