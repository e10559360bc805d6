//! `kv_get`, `kv_set`, `kv_has`, `kv_delete`, `kv_list`.

use super::fault::Fault;
use super::memory::Guest;
use super::page;
use super::state::{GuestView, HostCalls};
use kvasm_abi::{
    DeleteOptions, EntryHeader, FORMAT_BYTES, FORMAT_JSON, GET_WITH_HEADER, ListOptions, MODULE,
    Range32, SetOptions, Status,
};
use kvasm_core::{
    COLLECTION_BYTES_MAX, Collection, Cursor, Entry, Expect, Invalid, KEY_BYTES_MAX, Key, KeyRange,
    Subject, Timestamp, Value,
};
use kvasm_service::List;
use wasmtime::{Caller, Linker};

/// Builds a range from a pair of parameters.
pub(super) fn at(ptr: i32, len: i32) -> Range32 {
    Range32 {
        ptr: ptr.cast_unsigned(),
        len: len.cast_unsigned(),
    }
}

/// Links one function that may wait. `$body` borrows the guest and returns a result or a fault.
macro_rules! async_function {
    ($linker:ident, $name:literal, $body:ident, ($($arg:ident $(: $type:ty)?),*)) => {
        $linker.func_wrap_async(
            MODULE,
            $name,
            |caller: Caller<'_, T>, ($($arg,)*): ($(async_function!(@type $($type)?),)*)| {
                Box::new(async move {
                    let mut guest = Guest::new(caller, $name)?;
                    guest.state().waiting_in = Some($name);
                    guest.state().calls.count(const { HostCalls::index_of($name) });
                    let span = match const { HostCalls::is_copy($name) } {
                        true => None,
                        false => guest.state().start_span($name),
                    };
                    let result = $body(&mut guest, $($arg),*).await;
                    if let Some(span) = span {
                        $crate::abi::state::end_span(span, &result);
                    }
                    guest.state().waiting_in = None;
                    guest.state().finish(result)
                })
            },
        )?;
    };
    (@type) => { i32 };
    (@type $type:ty) => { $type };
}
pub(super) use async_function;

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    async_function!(
        linker,
        "kv_get",
        get,
        (c, c_len, k, k_len, format, flags, out, cap)
    );
    async_function!(
        linker,
        "kv_set",
        set,
        (c, c_len, k, k_len, v, v_len, format, options)
    );
    async_function!(linker, "kv_has", has, (c, c_len, k, k_len));
    async_function!(linker, "kv_delete", delete, (c, c_len, k, k_len, options));
    async_function!(linker, "kv_list", list, (c, c_len, options, out, cap));
    Ok(())
}

impl<T: GuestView> Guest<'_, T> {
    pub(super) fn collection(&self, ptr: i32, len: i32) -> Result<Collection, Fault> {
        let bytes = self.read(
            "collection",
            Subject::Collection,
            at(ptr, len),
            COLLECTION_BYTES_MAX,
        )?;
        Ok(Collection::parse(bytes)?)
    }

    pub(super) fn key(&self, ptr: i32, len: i32) -> Result<Key, Fault> {
        Ok(Key::parse(self.read(
            "key",
            Subject::Key,
            at(ptr, len),
            KEY_BYTES_MAX,
        )?)?)
    }

    /// Reads a bound of a list's range, if given.
    fn bound(
        &self,
        argument: &'static str,
        subject: Subject,
        range: Option<Range32>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        range
            .map(|range| self.read(argument, subject, range, KEY_BYTES_MAX))
            .transpose()
    }
}

/// The format of a value.
pub(super) enum Format {
    Json,
    Bytes,
}

impl Format {
    /// Checks a value of this format.
    pub(super) fn value(self, bytes: Vec<u8>, limit: usize) -> Result<Value, Invalid> {
        match self {
            Format::Json => Value::json(bytes, limit),
            Format::Bytes => Value::bytes(bytes, limit),
        }
    }
}

pub(super) fn format(code: i32) -> Result<Format, Fault> {
    match code {
        FORMAT_JSON => Ok(Format::Json),
        FORMAT_BYTES => Ok(Format::Bytes),
        other => Err(Fault::Status(
            Status::Invalid,
            format!("the format is {other}; it must be 0 (JSON) or 1 (bytes)"),
        )),
    }
}

pub(super) fn header(entry: &Entry) -> EntryHeader {
    let format = match entry.value {
        Value::Json(_) => FORMAT_JSON,
        Value::Bytes(_) => FORMAT_BYTES,
    };
    EntryHeader {
        version: entry.version.0,
        expires_at_ms: entry.expires_at.map_or(0, |at| at.0),
        format: format.cast_unsigned(),
    }
}

#[allow(clippy::too_many_arguments)] // The ABI's parameters, one for one.
async fn get<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
    format_code: i32,
    flags: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    if flags & !GET_WITH_HEADER != 0 {
        return Err(Fault::Status(
            Status::Unsupported,
            format!("unknown flags of kv_get: {flags:#x}"),
        ));
    }
    let format = format(format_code)?;
    let collection = guest.collection(c, c_len)?;
    let key = guest.key(k, k_len)?;

    let (found, header) = match flags & GET_WITH_HEADER {
        0 => (value_at(guest, &collection, &key).await?, None),
        _ => entry_at(guest, &collection, &key).await?,
    };
    let bytes = found.as_ref().map_or(0, |value| value.as_bytes().len());
    guest.state().used.read(1, bytes);
    let Some(found) = found else {
        return Err(Fault::Status(
            Status::NotFound,
            "there is no such entry".to_owned(),
        ));
    };

    guest.acquire_cpu_permit(bytes).await;
    let value = match (format, found) {
        (Format::Json | Format::Bytes, Value::Json(text)) => text.into_string().into_bytes(),
        (Format::Bytes, Value::Bytes(bytes)) => bytes,
        (Format::Json, Value::Bytes(_)) => {
            return Err(Fault::Status(
                Status::Type,
                kvasm_abi::HOLDS_BYTES.to_owned(),
            ));
        }
    };
    let Some(header) = header else {
        return guest.answer(out, value);
    };
    let mut bytes = Vec::with_capacity(kvasm_abi::ENTRY_HEADER_BYTES + value.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&value);
    guest.answer(out, bytes)
}

async fn value_at<T: GuestView>(
    guest: &mut Guest<'_, T>,
    collection: &Collection,
    key: &Key,
) -> Result<Option<Value>, Fault> {
    let state = guest.state();
    let caller = &state.context.caller;
    let get = state.services.kv.get_value(caller, collection, key);
    Ok(state.meter.exclude(get).await?)
}

async fn entry_at<T: GuestView>(
    guest: &mut Guest<'_, T>,
    collection: &Collection,
    key: &Key,
) -> Result<(Option<Value>, Option<EntryHeader>), Fault> {
    let state = guest.state();
    let caller = &state.context.caller;
    let get = state.services.kv.get(caller, collection, key);
    let entry = state.meter.exclude(get).await?;
    let header = entry.as_ref().map(header);
    Ok((entry.map(|entry| entry.value), header))
}

#[allow(clippy::too_many_arguments)] // The ABI's parameters, one for one.
async fn set<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
    v: i32,
    v_len: i32,
    format_code: i32,
    options: i32,
) -> Result<i64, Fault> {
    let format = format(format_code)?;
    let options = match guest.read_options(options.cast_unsigned(), SetOptions::SIZE)? {
        None => SetOptions::default(),
        Some(bytes) => SetOptions::decode(&bytes)?,
    };
    let collection = guest.collection(c, c_len)?;
    let key = guest.key(k, k_len)?;
    let limit = guest.state().limits.value_bytes;
    let range = at(v, v_len);
    let bytes = guest.read_large("value", Subject::Value, range, limit);
    let bytes = bytes.await?;
    let value = format.value(bytes, limit)?;
    let written = value.as_bytes().len();
    let expires_at = Timestamp::now().expiry(options.ttl_ms)?;
    let expect = options.if_version.map(Expect::of_version);
    let state = guest.state();
    let (kv, caller) = (&state.services.kv, &state.context.caller);
    let set = kv.set(caller, (collection, key), value, expires_at, expect);
    let version = state.meter.exclude(set).await?;
    state.used.write(1, written);
    Ok(version.0.cast_signed())
}

async fn has<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
) -> Result<i64, Fault> {
    let collection = guest.collection(c, c_len)?;
    let key = guest.key(k, k_len)?;
    let state = guest.state();
    let has = state
        .services
        .kv
        .has(&state.context.caller, &collection, &key);
    let exists = state.meter.exclude(has).await?;
    state.used.read(1, 0);
    Ok(i64::from(exists))
}

async fn delete<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    k: i32,
    k_len: i32,
    options: i32,
) -> Result<i64, Fault> {
    let options = match guest.read_options(options.cast_unsigned(), DeleteOptions::SIZE)? {
        None => DeleteOptions::default(),
        Some(bytes) => DeleteOptions::decode(&bytes)?,
    };
    let collection = guest.collection(c, c_len)?;
    let key = guest.key(k, k_len)?;
    let state = guest.state();
    let expect = options.if_version.map(Expect::of_version);
    let caller = &state.context.caller;
    let delete = state.services.kv.delete(caller, (collection, key), expect);
    let existed = state.meter.exclude(delete).await?;
    state.used.write(1, 0);
    Ok(i64::from(existed))
}

async fn list<T: GuestView>(
    guest: &mut Guest<'_, T>,
    c: i32,
    c_len: i32,
    options: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    let options = match guest.read_options(options.cast_unsigned(), ListOptions::SIZE)? {
        None => ListOptions::default(),
        Some(bytes) => ListOptions::decode(&bytes)?,
    };
    let collection = guest.collection(c, c_len)?;
    let range = KeyRange::parse(
        guest.bound("prefix", Subject::Prefix, options.prefix)?,
        guest.bound("start", Subject::Bound, options.start)?,
        guest.bound("end", Subject::Bound, options.end)?,
    )?;
    let cursor = match options.cursor {
        None => None,
        Some(range) => Some(Cursor::parse(guest.read(
            "cursor",
            Subject::Cursor,
            range,
            Cursor::BYTES_MAX,
        )?)?),
    };
    let list = List {
        collection,
        range,
        cursor,
        limit: options.limit,
        reverse: options.reverse,
        with_values: options.values,
    };
    let state = guest.state();
    let list = state.services.kv.list(&state.context.caller, list);
    let listing = state.meter.exclude(list).await?;
    let bytes = page::value_bytes(&listing);
    state.used.read(listing.entries.len(), bytes);
    // Keys and values are most of the page.
    let bytes = bytes + page::key_bytes(&listing);
    guest.acquire_cpu_permit(bytes).await;
    guest.answer(out, page::encode(&listing))
}
