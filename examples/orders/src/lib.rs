//! Orders: `place` and `cancel` change them, a handler of changes keeps a total for each
//! customer, `total` reads one, and `stuck` lists the orders that the handler could not
//! process. Every night, totals of 0 are removed.
//!
//! With the feature `bug` the handler traps at an order of 0 cents, to show what happens to its
//! delivery: retries, a dead letter, and a replay after the fix.

use kvasm_guest::dead_letters;
use kvasm_guest::kv::{self, Collection};
use kvasm_guest::{Change, Error, HandlerError, Json, Permanent};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: u32,
}

#[derive(Deserialize)]
struct Place {
    id: String,
    #[serde(flatten)]
    order: Order,
}

fn orders() -> Collection {
    kv::collection("orders")
}

/// The orders as they were last counted in their customer's total.
fn counted() -> Collection {
    kv::collection("counted")
}

fn totals() -> Collection {
    kv::collection("totals")
}

/// Places an order. It is a transaction: of two concurrent orders with the same id, the second
/// one fails.
#[kvasm_guest::function(transaction)]
fn place(Json(Place { id, order }): Json<Place>) -> Result<(), String> {
    if order.customer.is_empty() {
        return Err("an order needs a customer".to_owned());
    }
    if orders().has(&id).map_err(|e| e.to_string())? {
        return Err(format!("there is an order {id:?} already"));
    }
    orders().set(&id, &order).map_err(|e| e.to_string())?;
    Ok(())
}

/// Cancels an order, and returns whether it existed.
#[kvasm_guest::function]
fn cancel(Json(id): Json<String>) -> Result<Json<bool>, Error> {
    orders().delete(&id).map(Json)
}

/// Returns the total of a customer, in cents.
#[kvasm_guest::function]
fn total(Json(customer): Json<String>) -> Result<Json<i64>, Error> {
    Ok(Json(totals().get(&customer)?.unwrap_or(0)))
}

/// Lists the orders that are not in the totals because the handler has failed.
#[kvasm_guest::function]
fn stuck() -> Result<Json<Vec<String>>, Error> {
    let mut keys = Vec::new();
    for letter in dead_letters::list() {
        let letter = letter?;
        if letter.function == "count" {
            keys.extend(letter.key);
        }
    }
    Ok(Json(keys))
}

/// Updates the totals after an order has changed.
///
/// The change says which order to look at, not what to add: a replay may come after later
/// changes of the same order. The handler compares the current order with the counted one, so
/// it can run any number of times.
#[kvasm_guest::on_change(collection = "orders")]
fn count(change: Change<Order>) -> Result<(), HandlerError> {
    let key = &change.key;
    let before = counted().get::<Order>(key)?;
    let now = orders().get::<Order>(key)?;
    if now == before {
        return Ok(());
    }
    if let Some(before) = before {
        totals().increment(&before.customer, -i64::from(before.cents))?;
    }
    match now {
        Some(now) if now.customer.is_empty() => {
            return Err(Permanent(format!("the order {key:?} has no customer")).into());
        }
        Some(now) => {
            let total = totals().increment(&now.customer, i64::from(now.cents))?;
            let digits = digits(now.cents);
            kvasm_guest::log::info!("{key}: {digits} digits, makes {total} of {}", now.customer);
            counted().set(key, &now)?;
        }
        None => {
            counted().delete(key)?;
        }
    }
    Ok(())
}

/// Returns the number of digits.
#[cfg(not(feature = "bug"))]
fn digits(cents: u32) -> u32 {
    cents.checked_ilog10().unwrap_or(0) + 1
}

/// Returns the number of digits. Wrong on purpose: 0 has no logarithm, so it panics.
#[cfg(feature = "bug")]
fn digits(cents: u32) -> u32 {
    cents.ilog10() + 1
}

/// Removes the totals that are 0. A list shows entries that others may be changing; the
/// transaction checks the individual reads.
#[kvasm_guest::cron("0 3 * * *")]
fn tidy() -> Result<(), Error> {
    for customer in totals().list().keys() {
        let customer = customer?;
        if totals().get(&customer)? == Some(0) {
            totals().delete(&customer)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::dead_letters::DeadLetter;
    use kvasm_guest::{ScheduledRun, testing};

    fn order(customer: &str, cents: u32) -> Order {
        Order {
            customer: customer.to_owned(),
            cents,
        }
    }

    fn place_as(id: &str, order: Order) -> Result<(), String> {
        let id = id.to_owned();
        testing::transaction(|| place(Json(Place { id, order })))
    }

    /// Writes an order and delivers the change.
    fn set(id: &str, order: Order) -> Result<(), HandlerError> {
        orders().set(id, &order).unwrap();
        testing::change(count, Change::set("orders", id, order))
    }

    fn total_of(customer: &str) -> i64 {
        total(Json(customer.to_owned())).unwrap().0
    }

    #[test]
    fn total_reflects_order_changes() {
        set("o1", order("ada", 500)).unwrap();
        set("o2", order("ada", 70)).unwrap();
        set("o3", order("brian", 1)).unwrap();
        assert_eq!((total_of("ada"), total_of("brian")), (570, 1));
        // It becomes more expensive, then moves to another customer.
        set("o1", order("ada", 600)).unwrap();
        assert_eq!((total_of("ada"), total_of("brian")), (670, 1));
        set("o1", order("brian", 600)).unwrap();
        assert_eq!((total_of("ada"), total_of("brian")), (70, 601));
        cancel(Json("o1".to_owned())).unwrap();
        testing::change(count, Change::delete("orders", "o1")).unwrap();
        assert_eq!((total_of("ada"), total_of("brian")), (70, 1));
    }

    #[test]
    fn duplicate_or_late_change_is_counted_once() {
        let first = || Change::set("orders", "o1", order("ada", 500));
        set("o1", order("ada", 500)).unwrap();
        testing::change(count, first()).unwrap();
        assert_eq!(total_of("ada"), 500);
        set("o1", order("ada", 20)).unwrap();
        testing::change(count, first()).unwrap();
        assert_eq!(total_of("ada"), 20);
        orders().delete("o1").unwrap();
        testing::change(count, Change::delete("orders", "o1")).unwrap();
        testing::change(count, first()).unwrap();
        assert_eq!(total_of("ada"), 0);
    }

    #[test]
    fn uncountable_order_is_a_permanent_failure() {
        set("o1", order("ada", 500)).unwrap();
        let error = set("o1", order("", 5)).unwrap_err();
        assert!(error.is_permanent(), "{error:?}");
        assert_eq!(total_of("ada"), 500);
    }

    #[test]
    fn duplicate_order_id_is_rejected() {
        place_as("o1", order("ada", 1)).unwrap();
        assert!(place_as("o1", order("brian", 2)).is_err());
        assert!(place_as("o2", order("", 2)).is_err());
        assert_eq!(orders().get("o1"), Ok(Some(order("ada", 1))));
        let input = r#"{"id":"o3","customer":"ada","cents":0}"#;
        testing::transaction(|| testing::call(place, input)).unwrap();
        assert_eq!(orders().get("o3"), Ok(Some(order("ada", 0))));
    }

    #[test]
    #[cfg(not(feature = "bug"))]
    fn zero_amount_order_does_not_change_the_total() {
        set("gift", order("ada", 0)).unwrap();
        assert_eq!(total_of("ada"), 0);
        assert_eq!([0, 9, 10, u32::MAX].map(digits), [1, 1, 2, 10]);
    }

    #[test]
    #[cfg(feature = "bug")]
    fn buggy_handler_panics_on_zero_amount_and_rolls_back() {
        set("o1", order("ada", 500)).unwrap();
        let trap = std::panic::catch_unwind(|| set("o1", order("ada", 0)));
        assert!(trap.is_err());
        assert_eq!(total_of("ada"), 500);
    }

    #[test]
    fn nightly_cleanup_removes_zero_totals() {
        set("o1", order("ada", 500)).unwrap();
        set("o2", order("brian", 5)).unwrap();
        orders().delete("o2").unwrap();
        testing::change(count, Change::delete("orders", "o2")).unwrap();
        testing::scheduled(|_| tidy(), ScheduledRun::at(0)).unwrap();
        let left: Result<Vec<String>, Error> = totals().list().keys().collect();
        assert_eq!(left, Ok(vec!["ada".to_owned()]));
    }

    #[test]
    fn stuck_lists_the_dead_lettered_orders() {
        let mut letter = DeadLetter::example("1");
        letter.function = "count".to_owned();
        letter.key = Some("o1".to_owned());
        testing::add_dead_letter(letter);
        testing::add_dead_letter(DeadLetter::example("2"));
        assert_eq!(stuck(), Ok(Json(vec!["o1".to_owned()])));
    }
}
