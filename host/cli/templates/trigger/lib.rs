//! Orders, and a handler that keeps the total of each customer.

use kvasm_guest::{Change, Error, Json, kv};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: i64,
}

/// Places an order, and returns its id, which sorts by time.
#[kvasm_guest::function]
fn place(Json(order): Json<Order>) -> Result<Json<String>, Error> {
    let id = kv::unique_key()?;
    kv::collection("orders").set(&id, &order)?;
    Ok(Json(id))
}

/// Runs once for each new order, in a transaction of its own. If it fails, it is tried again; if it
/// fails for good, the change becomes a dead letter, which can be replayed.
#[kvasm_guest::on_change(collection = "orders", on = "set")]
fn add_up(change: Change<Order>) -> Result<(), Error> {
    let Some(order) = change.value else {
        return Ok(());
    };
    let total = kv::collection("totals").increment(&order.customer, order.cents)?;
    log::info!("{} has ordered for {total} cents", order.customer);
    Ok(())
}

/// Returns the total of a customer, in cents.
#[kvasm_guest::function]
fn total(Json(customer): Json<String>) -> Result<Json<i64>, Error> {
    Ok(Json(kv::collection("totals").get(&customer)?.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing;

    #[test]
    fn orders_are_added_up() {
        let order = |cents| Order { customer: "ada".to_owned(), cents };
        let Json(id) = place(Json(order(500))).unwrap();
        // Natively no change is delivered by itself.
        testing::change(add_up, Change::set("orders", &id, order(500))).unwrap();
        assert_eq!(total(Json("ada".to_owned())), Ok(Json(500)));
    }
}
