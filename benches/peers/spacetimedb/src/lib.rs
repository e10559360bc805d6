//! The functions of the SDK plugin (tests/guests/sdk) as SpacetimeDB reducers.

use spacetimedb::{reducer, table, ReducerContext, Table};

/// The number of accounts, and of numbers that `set` writes. All rows exist from the beginning.
const ACCOUNTS: u32 = 20_000;

#[table(name = account)]
pub struct Account {
    #[primary_key]
    id: u32,
    sum: i64,
}

#[table(name = number)]
pub struct Number {
    #[primary_key]
    id: u32,
    value: u32,
}

#[reducer(init)]
fn fill(context: &ReducerContext) {
    for id in 0..ACCOUNTS {
        context.db.account().insert(Account { id, sum: 0 });
        context.db.number().insert(Number { id, value: 0 });
    }
}

/// Does nothing.
#[reducer]
fn noop(_context: &ReducerContext) {}

/// Sets one of the numbers.
#[reducer]
fn set(context: &ReducerContext) {
    let id = random(context, ACCOUNTS);
    context.db.number().id().update(Number { id, value: id });
}

/// Moves one unit between two accounts: two reads and two writes.
#[reducer]
fn transfer(context: &ReducerContext) -> Result<(), String> {
    let from = random(context, ACCOUNTS);
    let to = (from + 1 + random(context, ACCOUNTS - 1)) % ACCOUNTS;
    for (id, by) in [(from, -1), (to, 1)] {
        let mut account = context.db.account().id().find(id).ok_or("no account")?;
        account.sum += by;
        context.db.account().id().update(account);
    }
    Ok(())
}

fn random(context: &ReducerContext, below: u32) -> u32 {
    context.random::<u32>() % below
}
