//! A program that gives plugins its own host functions in addition to `kvasm_v1`: a shop's
//! catalogue, which plugins can query for prices.
//!
//! The plugin is a few lines of wasm text here. In Rust it declares the function as
//! docs/embedding.md shows.

use anyhow::{Result, ensure};
use kvasm::model::AppName;
use kvasm::wasmtime::{self, Caller, Linker, bail};
use kvasm::{Call, Host, Invocation};
use std::collections::HashMap;
use std::sync::Arc;

/// The maximum size of an article's name in bytes.
const NAME_BYTES_MAX: u32 = 64;
/// The result for an article that the shop does not have.
const NOT_FOUND: i64 = -1;

/// Prices in cents, by app and article.
type Catalogue = HashMap<(&'static str, &'static str), i64>;

/// Queries the price of the article in its input, and writes it as 8 bytes.
const PLUGIN: &str = r#"(module
  (import "shop_v1" "price" (func $price (param i32 i32) (result i64)))
  (import "kvasm_v1" "input_len" (func $input_len (result i64)))
  (import "kvasm_v1" "input_read" (func $input_read (param i32 i32 i32) (result i64)))
  (import "kvasm_v1" "output_write" (func $output_write (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (func (export "quote") (result i32)
    (local $len i32)
    (local.set $len (i32.wrap_i64 (call $input_len)))
    (drop (call $input_read (i32.const 0) (i32.const 8) (local.get $len)))
    (i64.store (i32.const 0) (call $price (i32.const 8) (local.get $len)))
    (drop (call $output_write (i32.const 0) (i32.const 8)))
    (i32.const 0))
  (func (export "outside") (result i32)
    (drop (call $price (i32.const -4) (i32.const 8)))
    (i32.const 0)))"#;

/// Links `shop_v1.price(ptr, len) -> i64`. A separate module name keeps it apart from future
/// versions of Kvasm's functions.
fn link(linker: &mut Linker<Invocation>, catalogue: Arc<Catalogue>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "shop_v1",
        "price",
        move |mut caller, (ptr, len): (u32, u32)| {
            let catalogue = Arc::clone(&catalogue);
            let name = read_text(&mut caller, ptr, len);
            // The host knows which app is calling; the plugin cannot choose it.
            let app = caller.data().guest_state().app().to_owned();
            Box::new(async move {
                let name = name?;
                // A real shop queries its database here. The call's deadline limits the wait.
                let price = catalogue.get(&(app.as_str(), name.as_str()));
                wasmtime::Result::Ok(price.copied().unwrap_or(NOT_FOUND))
            })
        },
    )?;
    Ok(())
}

/// Reads text from the plugin's memory. Check the length and the range before copying: both
/// come from an untrusted plugin. An error traps and ends the call.
fn read_text(caller: &mut Caller<'_, Invocation>, ptr: u32, len: u32) -> wasmtime::Result<String> {
    if len > NAME_BYTES_MAX {
        bail!("shop_v1.price: the name has {len} bytes; the limit is {NAME_BYTES_MAX}");
    }
    let Some(memory) = caller.get_export("memory").and_then(|e| e.into_memory()) else {
        bail!("shop_v1.price: the plugin exports no memory");
    };
    let start = ptr as usize;
    let bytes = memory.data(&*caller).get(start..start + len as usize);
    match bytes.map(|bytes| String::from_utf8(bytes.to_vec())) {
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) => bail!("shop_v1.price: the name is not UTF-8"),
        None => bail!("shop_v1.price: {len} bytes at {ptr} are outside memory"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let catalogue = Arc::new(Catalogue::from([
        (("books", "atlas"), 4_900),
        (("garden", "rake"), 1_950),
    ]));
    let host = Host::builder()
        .instances(8)
        .extend(move |linker| link(linker, catalogue))
        .build()?;
    for (name, article) in [("books", "atlas"), ("garden", "atlas"), ("garden", "rake")] {
        let name = AppName::parse(name)?;
        let app = match host.app(&name).await? {
            Some(app) => app,
            None => host.create_app(name).await?,
        };
        let plugin = host.load(&app, wat::parse_str(PLUGIN)?).await?;
        let call = Call::function("quote").input(article.as_bytes().to_vec());
        let output = host.call(&plugin, call).await?.output;
        let price = i64::from_le_bytes(output.as_slice().try_into()?);
        println!("{} {article}: {price}", app.name);
        // A plugin that passes a range outside its memory traps, and the host continues.
        let trapped = host.call(&plugin, Call::function("outside")).await;
        ensure!(trapped.is_err(), "a range outside memory was read");
    }
    Ok(())
}
