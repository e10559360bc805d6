//! `kvasm inspect`: what a module is, and whether this host would load it.

mod source_types;

use super::build::{ModuleFile, PluginSource};
use super::failure::{CommandOutcome, Failure};
use super::grant::print_needs;
use super::trigger::describe_declared;
use super::{Global, open, output};
use clap::Args;
use kvasm::api::{DeclaredView, NeedsView};
use kvasm::model::{DeclaredTrigger, Timestamp, Watch};
use kvasm::{
    FunctionKind, ImportState, InspectedFunction, InspectedImport, Inspection, MemorySize,
    NotCallable, Omitted, SectionSizes, TableSize,
};
use serde_json::{Value, json};
use source_types::{ExportTypes, SourceTypes};
use std::io::Write;

/// The maximum size of a file that is read, in bytes. A module of this size is refused; it is read so
/// that its author sees what makes it large.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    source: PluginSource,
}

pub(super) async fn run(global: &Global, args: InspectArgs) -> Result<CommandOutcome, Failure> {
    let ModuleFile { place, wasm } = args.source.module(global, FILE_BYTES_MAX)?;
    let types = SourceTypes::read(&wasm);
    let inspection = read(global, wasm).await.map_err(|e| e.at(&place))?;
    match global.json {
        true => output::json(&view(&inspection, &types))?,
        false => print(&inspection, &types)?,
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
    let host = open::limited(&config, open::compiler())
        .instances(1)
        .build()?;
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

fn view(inspection: &Inspection, types: &SourceTypes) -> Value {
    let custom = inspection.sizes.custom.iter();
    let custom = custom.map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let triggers = inspection.triggers.iter().map(trigger_view);
    let functions = inspection.functions.iter();
    let functions = functions.map(|function| function_view(function, types));
    let omitted = &inspection.omitted;
    json!({
        "bytes": inspection.sizes.total,
        "code_bytes": inspection.sizes.code,
        "data_bytes": inspection.sizes.data,
        "custom_sections": custom.collect::<Vec<_>>(),
        "memories": inspection.memories.iter().map(memory_view).collect::<Vec<_>>(),
        "tables": inspection.tables.iter().map(table_view).collect::<Vec<_>>(),
        "functions": functions.collect::<Vec<_>>(),
        "collections": inspection.collections,
        "triggers": triggers.collect::<Vec<_>>(),
        "needs": NeedsView::from(&inspection.needs),
        "imports": inspection.imports.iter().map(import_view).collect::<Vec<_>>(),
        "refusals": inspection.refusals.iter().map(describe).collect::<Vec<_>>(),
        "omitted": {
            "custom_sections": omitted.custom_sections,
            "memories": omitted.memories,
            "tables": omitted.tables,
            "functions": omitted.functions,
            "collections": omitted.collections,
            "imports": omitted.imports,
        },
    })
}

fn trigger_view(trigger: &DeclaredTrigger) -> Value {
    let mut view = json!(DeclaredView::from(trigger));
    if let (Some(at), Some(members)) = (next_time(trigger), view.as_object_mut()) {
        members.insert("next_at".to_owned(), json!(at.0));
    }
    view
}

/// The time at which a schedule would next be due, if the plugin were active.
fn next_time(trigger: &DeclaredTrigger) -> Option<Timestamp> {
    match &trigger.watch {
        Watch::Schedule(schedule) => schedule.next_after(Timestamp::now()),
        Watch::Changes(_) | Watch::Timers => None,
    }
}

fn table_view(table: &TableSize) -> Value {
    json!({
        "initial_elements": table.initial_elements,
        "max_elements": table.max_elements,
    })
}

fn memory_view(memory: &MemorySize) -> Value {
    json!({
        "exported": memory.is_exported,
        "initial_bytes": memory.initial_bytes,
        "max_bytes": memory.max_bytes,
    })
}

fn function_view(function: &InspectedFunction, types: &SourceTypes) -> Value {
    let kind = match function.kind {
        FunctionKind::Function => "function",
        FunctionKind::Transaction => "transaction",
        FunctionKind::Http => "http",
        FunctionKind::HttpTransaction => "http_transaction",
        FunctionKind::OnChange => "on_change",
        FunctionKind::Cron => "cron",
        FunctionKind::OnTimer => "on_timer",
    };
    let mut view = json!({
        "name": function.name,
        "kind": kind,
        "callable": function.not_callable.is_none(),
    });
    if let (Some(types), Some(members)) = (types.of(&function.name), view.as_object_mut()) {
        types.add_to(members);
    }
    view
}

fn import_view(import: &InspectedImport) -> Value {
    json!({
        "module": import.module,
        "name": import.name,
        "provided": is_provided(import),
    })
}

/// Whether this host provides an import, if that was checked.
fn is_provided(import: &InspectedImport) -> Option<bool> {
    match import.state {
        ImportState::Provided => Some(true),
        ImportState::Unknown | ImportState::Mismatch(_) => Some(false),
        ImportState::Unchecked => None,
    }
}

fn print(inspection: &Inspection, types: &SourceTypes) -> Result<(), Failure> {
    let mut rows = vec![["size".to_owned(), describe_sizes(&inspection.sizes)]];
    let memories = inspection.memories.iter();
    rows.extend(memories.map(|memory| ["memory".to_owned(), describe_memory(memory)]));
    let tables = inspection.tables.iter();
    rows.extend(tables.map(|table| ["table".to_owned(), describe_table(table)]));
    if !inspection.collections.is_empty() {
        let names = inspection.collections.join(", ");
        rows.push(["collections".to_owned(), names]);
    }
    rows.extend(describe_imports(&inspection.imports));
    rows.extend(describe_omitted(&inspection.omitted));
    output::rows(&rows)?;
    print_functions(inspection, types)?;
    if inspection.needs != kvasm::model::Needs::default() {
        writeln!(std::io::stdout())?;
        print_needs(&NeedsView::from(&inspection.needs))?;
    }
    Ok(())
}

/// Prints the functions, with their types if there are some, and the routes of handlers.
fn print_functions(inspection: &Inspection, types: &SourceTypes) -> Result<(), Failure> {
    if !inspection.functions.is_empty() {
        let functions = inspection.functions.iter();
        let functions = functions.map(|function| {
            let kind = describe_function(function, &inspection.triggers);
            let types = types.signature(&function.name);
            [function.name.clone(), kind, types]
        });
        let functions: Vec<[String; 3]> = functions.collect();
        writeln!(std::io::stdout())?;
        // Plugins in other languages have no types.
        match functions.iter().all(|[_, _, types]| types.is_empty()) {
            true => {
                let functions = functions.into_iter().map(|[name, kind, _]| [name, kind]);
                output::table(["NAME", "KIND"], functions)?;
            }
            false => output::table(["NAME", "KIND", "TYPES"], functions)?,
        }
    }
    let exports = inspection.functions.iter();
    let exports = exports.filter_map(|function| types.of(&function.name));
    let routes: Vec<[String; 2]> = exports.flat_map(ExportTypes::routes).collect();
    if !routes.is_empty() {
        writeln!(std::io::stdout())?;
        output::table(["METHOD", "ROUTE"], routes)?;
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

fn describe_table(table: &TableSize) -> String {
    let max = match table.max_elements {
        Some(elements) => format!("at most {elements}"),
        None => "no maximum of its own".to_owned(),
    };
    format!("{} elements, {max}", table.initial_elements)
}

/// A row for what is not listed, if anything.
fn describe_omitted(omitted: &Omitted) -> Option<[String; 2]> {
    let counts = [
        (omitted.custom_sections, "custom sections"),
        (omitted.memories, "memories"),
        (omitted.tables, "tables"),
        (omitted.functions, "functions"),
        (omitted.collections, "collections"),
        (omitted.imports, "imports"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!counts.is_empty()).then(|| ["not listed".to_owned(), counts.join(", ")])
}

/// A row for each module that is imported from, one for what this host lacks, and one for what was not
/// checked.
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
        for (title, state) in [
            ("imports", Some(true)),
            ("lacking", Some(false)),
            ("unchecked", None),
        ] {
            let names = of(&|import| import.module == module && is_provided(import) == state);
            if !names.is_empty() {
                let text = format!("from {module}: {}", names.join(", "));
                rows.push([title.to_owned(), text]);
            }
        }
    }
    rows
}

fn describe_function(function: &InspectedFunction, triggers: &[DeclaredTrigger]) -> String {
    let trigger = triggers.iter().find(|t| t.name.as_str() == function.name);
    let kind = match (function.kind, trigger) {
        (FunctionKind::Function, _) => "function".to_owned(),
        (FunctionKind::Transaction, _) => "function, each call a transaction".to_owned(),
        (FunctionKind::Http, _) => "HTTP handler".to_owned(),
        (FunctionKind::HttpTransaction, _) => "HTTP handler, each call a transaction".to_owned(),
        (_, Some(trigger)) => {
            let what = describe_declared(&DeclaredView::from(trigger));
            match next_time(trigger) {
                Some(at) => format!("handler: {what}, next at {}", output::time(at.0)),
                None => format!("handler: {what}"),
            }
        }
        (_, None) => "handler of triggers that operators set".to_owned(),
    };
    match &function.not_callable {
        None => kind,
        Some(NotCallable::Missing) => format!("{kind}; not exported"),
        Some(NotCallable::Export(export)) => format!("{kind}; exported as {export}"),
    }
}
