//! The OpenAPI document: the annotations of the handlers, combined with what all routes share:
//! problems, and the constraints of names and numbers.

use super::param_types::Parameter;
use super::try_handler::METHODS;
use kvasm_api::ProblemView;
use kvasm_core::{Level, Scope};
use kvasm_service::{CALL_OUTCOMES, OnTriggerDelete};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;
use utoipa::openapi::OpenApi;
use utoipa::{PartialSchema, ToSchema};

/// The path prefix of plugins' own routes, which define their own statuses and parameters.
const OF_PLUGINS: &str = "/a/";

/// The document, and indices for lookups in it.
pub(super) struct Document {
    text: String,
    /// By path and method.
    routes: HashMap<(String, String), DocumentedRoute>,
}

struct DocumentedRoute {
    parameters: Parameters,
    token: TokenNeed,
}

/// Whether a route accepts or requires a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenNeed {
    No,
    Optional,
    Required,
}

impl TokenNeed {
    fn of(operation: &Map<String, Value>) -> TokenNeed {
        let ways = operation.get("security").and_then(Value::as_array);
        let is_none = |way: &Value| way.as_object().is_none_or(Map::is_empty);
        match ways {
            None => TokenNeed::No,
            Some(ways) if ways.is_empty() => TokenNeed::No,
            Some(ways) if ways.iter().any(is_none) => TokenNeed::Optional,
            Some(_) => TokenNeed::Required,
        }
    }
}

/// The parameters of a route: `{name}` in the path, `?name` in the query.
pub(super) type Parameters = BTreeMap<String, Parameter>;

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| Document::new(super::router::described()));

/// The OpenAPI document of the server, as JSON.
pub fn openapi() -> &'static str {
    &DOCUMENT.text
}

/// The parameters of a route; none if the route is not in the document, or is a plugin's.
pub(super) fn parameters(route: &str, method: &str) -> Option<&'static Parameters> {
    find(route, method).map(|route| &route.parameters)
}

/// Whether a route accepts a token; not if it is not in the document, or is a plugin's.
pub(super) fn token(route: &str, method: &str) -> TokenNeed {
    find(route, method).map_or(TokenNeed::No, |route| route.token)
}

fn find(route: &str, method: &str) -> Option<&'static DocumentedRoute> {
    // Every route of GET also accepts HEAD.
    let method = match method {
        "HEAD" => "get".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    DOCUMENT.routes.get(&(route.to_owned(), method))
}

impl Document {
    fn new(api: OpenApi) -> Document {
        let mut document = serde_json::to_value(api).unwrap_or_default();
        let mut all = HashMap::new();
        each_operation(&mut document, |path, method, operation| {
            operation.insert("operationId".to_owned(), name(path, method).into());
            let mut parameters = Parameters::new();
            each_parameter(operation, |place, parameter| {
                let of_type = parameter.clone();
                add_constraints(parameter, &format!("{place} {path}"), place);
                parameters.insert(place.to_owned(), Parameter::new(&of_type, parameter));
            });
            match path.starts_with(OF_PLUGINS) {
                true => plugins_answer(operation),
                false => {
                    problems(path, method, operation);
                    let token = TokenNeed::of(operation);
                    let route = DocumentedRoute { parameters, token };
                    all.insert((path.to_owned(), method.to_owned()), route);
                }
            }
        });
        components(&mut document);
        bound_integers(&mut document);
        let text = document.to_string();
        Document { text, routes: all }
    }
}

fn each_operation(
    document: &mut Value,
    mut visit: impl FnMut(&str, &str, &mut Map<String, Value>),
) {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                visit(path, method, operation);
            }
        }
    }
}

/// Visits the parameters of an operation: `{name}` in the path, `?name` in the query.
fn each_parameter(operation: &mut Map<String, Value>, mut visit: impl FnMut(&str, &mut Value)) {
    let parameters = operation.get_mut("parameters");
    let parameters = parameters.and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let text = |member: &str| parameter.get(member).and_then(Value::as_str);
        let name = text("name").unwrap_or_default();
        let place = match text("in") {
            Some("path") => format!("{{{name}}}"),
            Some("query") => format!("?{name}"),
            _ => name.to_owned(),
        };
        visit(&place, parameter);
    }
}

/// The id of an operation, derived from its method and path, since handlers can share a function
/// name.
fn name(path: &str, method: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty() && *word != "v1");
    std::iter::once(method)
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

/// Adds the known constraints of a schema, by its place or else by its name.
fn add_constraints(parameter: &mut Value, place: &str, name: &str) {
    if let (Some(shape), Some(schema)) = (constraints_of(place, name), parameter.get_mut("schema"))
    {
        merge(schema, shape);
    }
}

fn merge(schema: &mut Value, shape: Value) {
    if let (Some(schema), Value::Object(shape)) = (schema.as_object_mut(), shape) {
        schema.extend(shape);
    }
}

const APP: &str = "^[a-z0-9_-]+$";
const TRIGGER: &str = "^[A-Za-z0-9_.-]+$";
const TOKEN: &str = "^[0-9a-f]{32}$";
/// 32 hexadecimal digits or a UUID, not all zeros.
const TRACE_ID: &str =
    "^(?![0-]+$)([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$";
/// A position, and the identity of a host.
const LOG_CURSOR: &str = "^[0-9]{1,19}-[0-9a-f]{32}$";
/// A string of RFC 9651, or its characters alone.
const IDEMPOTENCY_KEY: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;
/// Simpler than what is accepted, which also includes addresses.
const ORIGIN: &str =
    r"^https?://(\*\.)?([a-z][a-z0-9]{0,62}\.){1,3}[a-z]{2,63}(:[1-9][0-9]{0,3})?$";
const ACTION: &str = r"^[a-z_]+(\.[a-z_]+)*$";
/// A path and a query of unreserved characters; others are percent-encoded.
const TARGET: &str = r"^/[A-Za-z0-9/._~-]*(\?[A-Za-z0-9/._~=&-]*)?$";
const BASE64: &str = "^([A-Za-z0-9+/]{4})*$";
/// Simpler than what is accepted: a name and a value of characters that both may have.
const HEADER: &str = "^[A-Za-z0-9-]+$";
const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
const NO_NUL: &str = "^[^\\u0000]*$";

fn text(min: u32, max: u32, pattern: &str) -> Value {
    json!({ "minLength": min, "maxLength": max, "pattern": pattern })
}

fn number(min: u32, max: u32) -> Value {
    json!({ "minimum": min, "maximum": max })
}

/// Reasons of dead letters.
const REASONS: [&str; 4] = ["attempts", "age", "deterministic", "depth"];

/// The constraints of a place in the document, beyond its type.
fn constraints_of(place: &str, name: &str) -> Option<Value> {
    Some(match place {
        "?limit /v1/apps/{app}/deliveries" | "?limit /v1/apps/{app}/timers" => number(1, 100),
        "?limit /v1/apps/{app}/logs" | "?limit /v1/apps/{app}/calls" => number(0, u32::MAX),
        "Last-Event-ID /v1/apps/{app}/kv/watch" => {
            json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
        }
        "?after /v1/apps" => text(1, 64, APP),
        "?window /v1/overview" => json!({ "enum": ["1h", "1d"] }),
        "?after /v1/tokens" | "?after /v1/apps/{app}/tokens" => text(32, 32, TOKEN),
        "?after /v1/apps/{app}/kv/collections" => text(1, 128, NO_NUL),
        "?before /v1/audit"
        | "?before /v1/apps/{app}/audit"
        | "?before /v1/apps/{app}/dead-letters" => json!({ "format": "uuid" }),
        "?actor /v1/audit" | "?actor /v1/apps/{app}/audit" => text(1, 128, NO_CONTROL),
        "?action /v1/audit" | "?action /v1/apps/{app}/audit" => text(1, 64, ACTION),
        "?app /v1/audit" => text(1, 64, APP),
        "HandlerRequest.method" => json!({ "enum": METHODS }),
        "HandlerRequest.path" => text(1, 8 * 1024, TARGET),
        "HandlerRequest.bytes" => json!({ "pattern": BASE64 }),
        "HandlerRequest.headers" => json!({
            "maxItems": 100,
            "items": {
                "type": "array", "minItems": 2, "maxItems": 2,
                "items": { "type": "string", "pattern": HEADER },
            },
        }),
        "?after /v1/apps/{app}/timers" | "TimerRequest.timer" => text(1, 256, NO_NUL),
        "NewApp.name" => text(1, 64, APP),
        "NewToken.name" => text(1, 128, NO_CONTROL),
        "NewToken.scopes" => json!({
            "minItems": 1,
            "items": { "type": "string", "enum": Scope::ALL.map(Scope::as_str) },
        }),
        "Limits.entries" | "Limits.bytes" | "LimitsChange.entries" | "LimitsChange.bytes" => {
            json!({ "minimum": 0, "maximum": i64::MAX })
        }
        "Limits.calls_at_once" | "LimitsChange.calls_at_once" => number(1, u32::MAX),
        "TriggerPut.on" => json!({
            "minItems": 1,
            "items": { "type": "string", "enum": ["set", "delete"] },
        }),
        "LettersRequest.ids" => json!({
            "minItems": 1,
            "maxItems": 1_000,
            "items": { "type": "string", "format": "uuid" },
        }),
        "LettersRequest.trigger" => text(1, 64, TRIGGER),
        "?reason /v1/apps/{app}/dead-letters" => json!({ "enum": REASONS }),
        // A nullable enum must list null among its values.
        "LettersRequest.reason" => {
            let reasons = REASONS.map(Value::from);
            json!({ "enum": reasons.into_iter().chain([Value::Null]).collect::<Vec<_>>() })
        }
        "?after /v1/apps/{app}/deliveries" => json!({ "minLength": 1 }),
        "?deliveries /v1/apps/{app}/triggers/{name}" => {
            json!({ "enum": OnTriggerDelete::ALL.map(OnTriggerDelete::as_str) })
        }
        "?request /v1/apps/{app}/logs" | "?request /v1/apps/{app}/calls" => {
            json!({ "format": "uuid" })
        }
        "?trace /v1/apps/{app}/logs" => json!({ "pattern": TRACE_ID }),
        "?before /v1/apps/{app}/logs" | "?before /v1/apps/{app}/calls" => {
            json!({ "pattern": LOG_CURSOR })
        }
        "?outcome /v1/apps/{app}/calls" => json!({ "enum": CALL_OUTCOMES }),
        "?level /v1/apps/{app}/logs" => json!({ "enum": Level::ALL.map(Level::as_str) }),
        "DeliveriesRequest.events" => json!({
            "minItems": 1,
            "maxItems": 1_000,
            "items": { "type": "string", "format": "uuid" },
        }),
        "DeliveriesRequest.trigger" => text(1, 64, TRIGGER),
        "DeliveriesRequest.limit" => number(1, 1_000),
        "GrantView.origin" => json!({ "pattern": ORIGIN }),
        "GrantView.name" => text(1, 64, TRIGGER),
        "TriggerPut.attempts_max" => number(1, 100),
        "TriggerPut.age_max_ms" => number(1_000, 30 * 24 * 60 * 60 * 1_000),
        "LettersRequest.limit" => number(1, 1_000),
        "GetManyRequest.keys" => json!({ "maxItems": 1_000 }),
        _ => return known_by_name(name),
    })
}

/// The constraints of a parameter or field of this name, wherever it occurs.
fn known_by_name(name: &str) -> Option<Value> {
    Some(match name {
        "Idempotency-Key" => json!({ "pattern": IDEMPOTENCY_KEY }),
        "{app}" => text(1, 64, APP),
        "{name}" | "?trigger" => text(1, 64, TRIGGER),
        "{token}" => text(32, 32, TOKEN),
        "{id}" => json!({ "format": "uuid" }),
        "?limit" => number(1, 1_000),
        "?ttl_ms" | "ttl_ms" => json!({ "minimum": 1 }),
        "?cursor" => json!({ "minLength": 1 }),
        "?collection" | "collection" => text(1, 128, NO_NUL),
        "?key" | "key" => text(1, 1_024, NO_NUL),
        "?prefix" | "?start" | "?end" | "prefix" => text(0, 1_024, NO_NUL),
        _ => return None,
    })
}

/// Statuses of an operation in addition to the common ones.
fn own_statuses(path: &str, method: &str) -> &'static [u16] {
    match (path, method) {
        ("/v1/apps/{app}/call/{function}", "post") => &[409, 422, 429, 504, 507],
        ("/v1/apps/{app}/request", "post") => &[409, 429, 502, 504, 507],
        ("/v1/apps", "post") => &[409],
        ("/v1/apps/{app}/limits", "get") => &[412],
        ("/v1/apps/{app}/limits", "put" | "patch") => &[412],
        ("/v1/apps/{app}/plugins", "post") => &[409, 422, 507],
        ("/v1/apps/{app}/plugins/{version}", "delete") => &[409],
        ("/v1/apps/{app}/plugins/{version}/activate", "post") => &[409, 507],
        ("/v1/apps/{app}/rollback", "post") => &[409, 507],
        ("/v1/apps/{app}/kv/entry", "get") => &[412],
        ("/v1/apps/{app}/kv/entry", "put") => &[412, 429, 507],
        ("/v1/apps/{app}/kv/entry", "delete") => &[412, 429, 507],
        ("/v1/apps/{app}/kv/commit", "post") => &[409, 412, 429, 507],
        ("/v1/apps/{app}/kv/increment", "post") => &[409, 429, 507],
        ("/v1/apps/{app}/kv/import", "post") => &[429, 507],
        ("/v1/apps/{app}/grants", "post") => &[507],
        ("/v1/apps/{app}/triggers/{name}", "put") => &[507],
        ("/v1/apps/{app}/triggers/{name}", "delete") => &[409],
        ("/v1/apps/{app}/triggers/{name}/pause", "post") => &[507],
        ("/v1/apps/{app}/triggers/{name}/resume", "post") => &[507],
        ("/v1/apps/{app}/deliveries/discard", "post") => &[507],
        ("/v1/apps/{app}/timers/cancel", "post") => &[507],
        ("/v1/apps/{app}/timers/run", "post") => &[507],
        ("/v1/apps/{app}/dead-letters/replay", "post") => &[507],
        ("/v1/apps/{app}/dead-letters/discard", "post") => &[507],
        ("/v1/apps/{app}/tokens" | "/v1/tokens", "post") => &[507],
        ("/v1/tokens/{token}", "delete") => &[409],
        ("/v1/apps/{app}/logs", "get") => &[429],
        _ => &[],
    }
}

/// Adds the problem responses of an operation.
fn problems(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let mut statuses = BTreeSet::from([400, 414, 431, 500, 503]);
    let needs_token = operation.get("security").and_then(Value::as_array);
    if needs_token.is_some_and(|ways| !ways.is_empty()) {
        statuses.extend([401, 403]);
    }
    if path.contains('{') {
        statuses.insert(404);
    }
    if operation.contains_key("requestBody") {
        statuses.extend([408, 413, 415]);
    }
    statuses.extend(own_statuses(path, method));
    let responses = operation.get_mut("responses");
    let Some(responses) = responses.and_then(Value::as_object_mut) else {
        return;
    };
    for status in statuses {
        let problem = json!({ "$ref": "#/components/responses/Problem" });
        responses.insert(status.to_string(), problem);
    }
}

/// The responses of a plugin's route: those of the plugin, and problems of the host.
fn plugins_answer(operation: &mut Map<String, Value>) {
    let answer = json!({
        "description": "The plugin's response, or a problem of the host",
        "content": {
            "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } },
            "*/*": {},
        },
    });
    operation.insert("responses".to_owned(), json!({ "default": answer }));
}

/// Adds the problem schema, and the known constraints of the fields of other schemas.
fn components(document: &mut Value) {
    let Some(components) = document.get_mut("components") else {
        return;
    };
    if let Some(components) = components.as_object_mut() {
        let content = json!({ "application/problem+json": {
            "schema": { "$ref": "#/components/schemas/Problem" } } });
        let problem = json!({
            "description": "The request was refused or failed",
            "content": content,
        });
        components.insert("responses".to_owned(), json!({ "Problem": problem }));
    }
    let schemas = components.get_mut("schemas").and_then(Value::as_object_mut);
    let Some(schemas) = schemas else { return };
    let problem = serde_json::to_value(ProblemView::schema()).unwrap_or_default();
    schemas.insert("Problem".to_owned(), problem);
    let mut parts = Vec::new();
    ProblemView::schemas(&mut parts);
    for (name, part) in parts {
        let part = serde_json::to_value(part).unwrap_or_default();
        schemas.entry(name).or_insert(part);
    }
    for (name, schema) in schemas {
        members(name, schema);
        match name.as_str() {
            "GrantView" => {
                let variants = schema.get_mut("oneOf").and_then(Value::as_array_mut);
                for variant in variants.into_iter().flatten() {
                    merge(variant, json!({ "additionalProperties": false }));
                }
            }
            "LimitsChange" => merge(schema, json!({ "minProperties": 1 })),
            "CommitRequest" => merge(
                schema,
                json!({ "anyOf": [non_empty_list("checks"), non_empty_list("operations")] }),
            ),
            _ => {}
        }
    }
}

/// An object with a non-empty list of this name.
fn non_empty_list(name: &str) -> Value {
    json!({ "required": [name], "properties": { name: { "minItems": 1 } } })
}

fn members(name: &str, schema: &mut Value) {
    match schema {
        Value::Object(members_of) => {
            let properties = members_of.get_mut("properties");
            let properties = properties.and_then(Value::as_object_mut);
            for (property, schema) in properties.into_iter().flatten() {
                if let Some(shape) = constraints_of(&format!("{name}.{property}"), property) {
                    merge(schema, shape);
                }
            }
            for part in members_of.values_mut() {
                members(name, part);
            }
        }
        Value::Array(parts) => {
            for part in parts {
                members(name, part);
            }
        }
        _ => {}
    }
}

/// Adds the bounds of integers, and replaces the formats that cannot hold them: OpenAPI's are
/// all signed, and a generated client takes `int32` for the type of its field.
fn bound_integers(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let format = members.get("format").and_then(Value::as_str);
            let is_signed = !members.contains_key("minimum");
            let bounds: Option<(Value, Value)> = match (format, is_signed) {
                (Some("int32"), false) => Some((0.into(), u32::MAX.into())),
                (Some("int64"), false) => Some((0.into(), u64::MAX.into())),
                (Some("int64"), true) => Some((i64::MIN.into(), i64::MAX.into())),
                _ => None,
            };
            if let Some((min, max)) = bounds {
                members.entry("minimum").or_insert(min);
                let max = members.entry("maximum").or_insert(max).as_i64();
                match max {
                    Some(max) if i32::try_from(max).is_ok() => {}
                    Some(_) => drop(members.insert("format".to_owned(), "int64".into())),
                    None => drop(members.remove("format")),
                }
            }
            members.values_mut().for_each(bound_integers);
        }
        Value::Array(parts) => parts.iter_mut().for_each(bound_integers),
        _ => {}
    }
}
