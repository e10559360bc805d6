//! The OpenAPI document: the annotations of the handlers, combined with what all routes share:
//! problems, and the constraints of names and numbers.

use super::constraints::constraints_of;
use super::param_types::Parameter;
use kvasm_api::ProblemView;
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
            each_body(operation, |media_type, body| {
                add_constraints(body, &format!("{media_type} {path}"), "");
                bytes(media_type, body);
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

/// Visits what an operation accepts and returns, with its media type.
fn each_body(operation: &mut Map<String, Value>, mut visit: impl FnMut(&str, &mut Value)) {
    let mut visit_all = |holder: &mut Value| {
        let content = holder.get_mut("content").and_then(Value::as_object_mut);
        for (media_type, body) in content.into_iter().flatten() {
            visit(media_type, body);
        }
    };
    if let Some(body) = operation.get_mut("requestBody") {
        visit_all(body);
    }
    let responses = operation.get_mut("responses");
    let responses = responses.and_then(Value::as_object_mut);
    for (_, response) in responses.into_iter().flatten() {
        visit_all(response);
    }
}

/// Describes bytes as such; the type of a `Vec<u8>` is an array of numbers.
fn bytes(media_type: &str, body: &mut Value) {
    let schema = body.get_mut("schema");
    let is_array = |schema: &&mut Value| schema.get("type").is_some_and(|name| name == "array");
    if let Some(schema) = schema.filter(is_array)
        && matches!(media_type, "application/octet-stream" | "application/wasm")
    {
        *schema = json!({ "type": "string", "format": "binary" });
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

/// Statuses of an operation in addition to the common ones.
fn own_statuses(path: &str, method: &str) -> &'static [u16] {
    match (path, method) {
        ("/v1/apps/{app}/call/{function}", "post") => &[409, 410, 422, 429, 504, 507],
        ("/v1/apps/{app}/request", "post") => &[409, 429, 502, 504, 507],
        ("/v1/apps", "post") => &[409, 507],
        ("/v1/apps/{app}/limits", "get") => &[412],
        ("/v1/apps/{app}/limits", "put" | "patch") => &[412, 507],
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
        ("/v1/apps/{app}/kv/watch", "get") => &[429],
        ("/v1/apps/{app}/config/{name}" | "/v1/apps/{app}/secrets/{name}", "put") => &[507],
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
    // 421 is for a host name that is not that of the administration address.
    let mut statuses = BTreeSet::from([400, 414, 421, 431, 500, 503]);
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
