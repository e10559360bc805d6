//! `kvasm inspect`: what a module is, and whether this host would load it.

use super::failure::{CommandOutcome, Failure};
use super::grant::print_needs;
use super::trigger::describe_watch;
use super::{Global, input, open, output};
use clap::Args;
use kvasm::api::{DeclaredView, NeedsView};
use kvasm::{
    FunctionKind, ImportState, InspectedFunction, InspectedImport, Inspection, MemorySize,
    NotCallable, SectionSizes,
};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct InspectArgs {
    /// The plugin, a wasm module
    plugin: PathBuf,
}

pub(super) async fn run(global: &Global, args: InspectArgs) -> Result<CommandOutcome, Failure> {
    let place = args.plugin.display().to_string();
    let wasm = input::file(&args.plugin)?;
    let inspection = read(global, wasm).await.map_err(|e| e.at(&place))?;
    match global.json {
        true => output::json(&view(&inspection))?,
        false => print(&inspection)?,
    }
    check(&inspection).map_err(|refused| refused.at(&place))?;
    Ok(CommandOutcome::Done)
}

/// Reads and compiles a module, with the limits of the configuration.
///
/// # Errors
/// The plugin's fault: it is not a module, or truncated.
pub(super) async fn read(global: &Global, wasm: Vec<u8>) -> Result<Inspection, Failure> {
    let config = open::config(global)?;
    let host = open::limited(&config).instances(1).build()?;
    Ok(host.inspect(wasm).await?)
}

/// Returns an error with all reasons for which a deployment would be refused.
///
/// # Errors
/// The plugin's fault.
pub(super) fn check(inspection: &Inspection) -> Result<(), Failure> {
    let reasons: Vec<String> = inspection.refusals.iter().map(describe).collect();
    match reasons.as_slice() {
        [] => Ok(()),
        [reason] => Err(Failure::plugin(format!(
            "a deployment would be refused: {reason}"
        ))),
        reasons => Err(Failure::plugin(format!(
            "a deployment would be refused, for {} reasons:\n{}",
            reasons.len(),
            reasons.join("\n")
        ))),
    }
}

/// The reason of a refusal, on one line.
fn describe(refusal: &kvasm::LoadError) -> String {
    refusal.to_string().replace('\n', " ")
}

fn view(inspection: &Inspection) -> Value {
    let custom = inspection.sizes.custom.iter();
    let custom = custom.map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let triggers = inspection.triggers.iter().map(DeclaredView::from);
    json!({
        "bytes": inspection.sizes.total,
        "code_bytes": inspection.sizes.code,
        "data_bytes": inspection.sizes.data,
        "custom_sections": custom.collect::<Vec<_>>(),
        "memories": inspection.memories.iter().map(memory_view).collect::<Vec<_>>(),
        "functions": inspection.functions.iter().map(function_view).collect::<Vec<_>>(),
        "triggers": triggers.collect::<Vec<_>>(),
        "needs": NeedsView::from(&inspection.needs),
        "imports": inspection.imports.iter().map(import_view).collect::<Vec<_>>(),
        "refusals": inspection.refusals.iter().map(describe).collect::<Vec<_>>(),
    })
}

fn memory_view(memory: &MemorySize) -> Value {
    json!({
        "exported": memory.is_exported,
        "initial_bytes": memory.initial_bytes,
        "max_bytes": memory.max_bytes,
    })
}

fn function_view(function: &InspectedFunction) -> Value {
    let kind = match function.kind {
        FunctionKind::Function => "function",
        FunctionKind::Transaction => "transaction",
        FunctionKind::Http => "http",
        FunctionKind::OnChange => "on_change",
        FunctionKind::Cron => "cron",
        FunctionKind::OnTimer => "on_timer",
    };
    json!({
        "name": function.name,
        "kind": kind,
        "callable": function.not_callable.is_none(),
    })
}

fn import_view(import: &InspectedImport) -> Value {
    json!({
        "module": import.module,
        "name": import.name,
        "provided": import.state == ImportState::Provided,
    })
}

fn print(inspection: &Inspection) -> Result<(), Failure> {
    let mut rows = vec![["size".to_owned(), describe_sizes(&inspection.sizes)]];
    let memories = inspection.memories.iter();
    rows.extend(memories.map(|memory| ["memory".to_owned(), describe_memory(memory)]));
    rows.extend(describe_imports(&inspection.imports));
    output::rows(&rows)?;
    let triggers: Vec<DeclaredView> = inspection.triggers.iter().map(DeclaredView::from).collect();
    if !inspection.functions.is_empty() {
        let functions = inspection.functions.iter();
        let functions = functions.map(|function| {
            let kind = describe_function(function, &triggers);
            [function.name.clone(), kind]
        });
        writeln!(std::io::stdout())?;
        output::table(["NAME", "KIND"], functions)?;
    }
    if inspection.needs != kvasm::model::Needs::default() {
        writeln!(std::io::stdout())?;
        print_needs(&NeedsView::from(&inspection.needs))?;
    }
    Ok(())
}

fn describe_sizes(sizes: &SectionSizes) -> String {
    let mut text = format!(
        "{} bytes: code {}, data {}",
        sizes.total, sizes.code, sizes.data
    );
    for (name, bytes) in &sizes.custom {
        text.push_str(&format!(", section {name:?} {bytes}"));
    }
    text
}

fn describe_memory(memory: &MemorySize) -> String {
    let max = match memory.max_bytes {
        Some(bytes) => format!("at most {bytes}"),
        None => "no maximum of its own".to_owned(),
    };
    let exported = match memory.is_exported {
        true => "",
        false => "; not exported as \"memory\"",
    };
    format!("{} bytes, {max}{exported}", memory.initial_bytes)
}

/// A row for each module that is imported from, and one for what this host lacks.
fn describe_imports(imports: &[InspectedImport]) -> Vec<[String; 2]> {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut modules: Vec<&str> = Vec::new();
    for import in imports {
        if !modules.contains(&import.module.as_str()) {
            modules.push(&import.module);
        }
    }
    let of = |is_listed: &dyn Fn(&&InspectedImport) -> bool| {
        let listed = imports.iter().filter(is_listed);
        listed
            .map(|import| import.name.as_str())
            .collect::<Vec<_>>()
    };
    for module in modules {
        let is_provided = |import: &&InspectedImport| import.state == ImportState::Provided;
        let provided = of(&|import| import.module == module && is_provided(import));
        let lacking = of(&|import| import.module == module && !is_provided(import));
        if !provided.is_empty() {
            let text = format!("from {module}: {}", provided.join(", "));
            rows.push(["imports".to_owned(), text]);
        }
        if !lacking.is_empty() {
            let text = format!("from {module}: {}", lacking.join(", "));
            rows.push(["lacking".to_owned(), text]);
        }
    }
    rows
}

fn describe_function(function: &InspectedFunction, triggers: &[DeclaredView]) -> String {
    let trigger = triggers.iter().find(|t| t.name == function.name);
    let kind = match (function.kind, trigger) {
        (FunctionKind::Function, _) => "function".to_owned(),
        (FunctionKind::Transaction, _) => "function, each call a transaction".to_owned(),
        (FunctionKind::Http, _) => "HTTP handler".to_owned(),
        (_, Some(trigger)) => {
            let on = trigger.on.as_ref().map(|on| on.join(", "));
            let what = describe_watch(
                trigger.collection.as_deref(),
                trigger.prefix.as_deref(),
                on.as_deref(),
                trigger.schedule.as_deref(),
            );
            format!("handler: {what}")
        }
        (_, None) => "handler of triggers that operators set".to_owned(),
    };
    match &function.not_callable {
        None => kind,
        Some(NotCallable::Missing) => format!("{kind}; not exported"),
        Some(NotCallable::Export(export)) => format!("{kind}; exported as {export}"),
    }
}
