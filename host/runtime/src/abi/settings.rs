//! `config_get`, `secret_get`.

use super::fault::Fault;
use super::io::function;
use super::kv::{async_function, at};
use super::memory::Guest;
use super::state::{GuestView, HostCalls};
use bytes::Bytes;
use kvasm_abi::{MODULE, Range32, Status};
use kvasm_core::{Invalid, SettingName, Subject};
use wasmtime::{Caller, Linker};

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    function!(linker, "config_get", config_get, (name: u32, len: u32, out: u32, cap: u32));
    async_function!(linker, "secret_get", secret_get, (name, len, out, cap));
    Ok(())
}

impl<T: GuestView> Guest<'_, T> {
    fn setting_name(&self, ptr: u32, len: u32) -> Result<SettingName, Fault> {
        let range = Range32 { ptr, len };
        let limit = SettingName::BYTES_MAX;
        let name = self.read("name", Subject::SettingName, range, limit)?;
        let name = std::str::from_utf8(&name).map_err(|error| Invalid::NotUtf8 {
            subject: Subject::SettingName,
            at: error.valid_up_to(),
        })?;
        Ok(SettingName::parse(name)?)
    }
}

fn not_found(what: &str, name: &SettingName) -> Fault {
    Fault::Status(Status::NotFound, format!("the {what} {name} is not set"))
}

fn config_get<T: GuestView>(
    guest: &mut Guest<'_, T>,
    name: u32,
    len: u32,
    out: u32,
    cap: u32,
) -> Result<i64, Fault> {
    let out = Range32 { ptr: out, len: cap };
    guest.check("out", out)?;
    let name = guest.setting_name(name, len)?;
    let state = guest.state();
    let value = state.settings.config(&state.context.caller, &name)?;
    let value = value.ok_or_else(|| not_found("configuration value", &name))?;
    let value = value.as_bytes().to_vec();
    guest.answer(out, value)
}

async fn secret_get<T: GuestView>(
    guest: &mut Guest<'_, T>,
    name: i32,
    len: i32,
    out: i32,
    cap: i32,
) -> Result<i64, Fault> {
    let out = at(out, cap);
    guest.check("out", out)?;
    let name = guest.setting_name(name.cast_unsigned(), len.cast_unsigned())?;
    let state = guest.state();
    let settings = state.settings.clone();
    let secret = settings.secret(&state.context.caller, &name);
    let secret = state.meter.exclude(secret).await?;
    let secret = secret.ok_or_else(|| not_found("secret", &name))?;
    let (buffer, state) = guest.bytes_and_state("out", out)?;
    let len = secret.bytes().len();
    match buffer.get_mut(..len) {
        Some(buffer) => buffer.copy_from_slice(secret.bytes()),
        // Without a copy: the secret is zeroed when the slot is dropped or replaced.
        None => state.slot = Bytes::from_owner(secret).into(),
    }
    Ok(len as i64)
}
