//! Whose write is next: apps take turns, and the writes of one app keep their order.

use super::writer::Job;
use kvasm_core::AppId;
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;

/// Writes that are taken out of the channel before their turn.
const WAITING_MAX: usize = 1024;

/// The writer's end of the channel. An app with many writes, or large ones, has one
/// turn at a time.
pub(super) struct Turns {
    channel: mpsc::Receiver<Box<dyn Job>>,
    waiting: HashMap<Option<AppId>, VecDeque<Box<dyn Job>>>,
    /// Those who have something waiting, each once, the next one first. What belongs
    /// to no app takes turns as if it were one.
    order: VecDeque<Option<AppId>>,
    count: usize,
}

impl Turns {
    pub(super) fn new(channel: mpsc::Receiver<Box<dyn Job>>) -> Turns {
        Turns {
            channel,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    /// Returns the next write and waits for one; `None` when there will be no more.
    pub(super) fn wait(&mut self) -> Option<Box<dyn Job>> {
        self.pop().or_else(|| self.channel.blocking_recv())
    }

    /// Returns the next write, if there is one.
    pub(super) fn next(&mut self) -> Option<Box<dyn Job>> {
        self.gather();
        self.pop()
    }

    /// Takes what has come meanwhile, so that it has its turn among the others.
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
