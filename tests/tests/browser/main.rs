//! The operator's console in a real Chromium, driven through WebDriver, against the program as a
//! process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod console;
mod entry_views;
mod handler_bodies;
mod hostile_page;
mod long_log;
mod overview;
mod page;
mod screen;
mod stage;
mod views;
mod webdriver;
