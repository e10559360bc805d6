//! What the harness does natively, and no real host.

use kvasm_guest::dead_letters::DeadLetter;
use kvasm_guest::{Error, Timer, kv, needs};

needs! {
    timers;
    required secret "key", "A test sets it, or does not";
}

#[kvasm_guest::function]
fn write() -> Result<(), Error> {
    kv::collection("c").set("k", &1)?;
    Ok(())
}

#[kvasm_guest::on_timer]
fn due(_timer: Timer<()>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing::{self, Harness};

    fn ready() {
        testing::set_secret("key", "1");
    }

    #[kvasm_guest::test]
    fn context_is_the_hosts(h: &mut Harness) {
        ready();
        let mut context = kvasm_guest::context().unwrap();
        context.app = "other".to_owned();
        testing::set_context(context);
        h.call(write, ()).unwrap();
    }

    #[kvasm_guest::test]
    fn timers_are_the_hosts(_h: &mut Harness) {
        ready();
        assert_eq!(testing::fire_timers(due), Ok(0));
    }

    #[kvasm_guest::test]
    fn dead_letters_are_the_hosts(_h: &mut Harness) {
        ready();
        testing::add_dead_letter(DeadLetter::example("1"));
    }

    #[kvasm_guest::test]
    fn store_has_no_such_error(h: &mut Harness) {
        ready();
        h.fail_next(Error::Remote("no".to_owned()));
        h.call(write, ()).unwrap_err();
    }

    #[kvasm_guest::test]
    fn needs_are_met_first(h: &mut Harness) {
        h.call(write, ()).unwrap();
    }
}
