//! The parts of the server's OpenAPI document that the tests need.

use kvasm_tests::server::{ApiClient, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The access that an operation requires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// None; a token is ignored.
    Open,
    /// A token, unless the app is public.
    Optional,
    /// Any token.
    Token,
    /// A token that grants this scope.
    Scope(String),
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Open => "none",
            Access::Optional => "optional",
            Access::Token => "any",
            Access::Scope(scope) => scope,
        })
    }
}

#[derive(Debug, Clone)]
pub struct Operation {
    /// In upper case.
    pub method: String,
    /// With its parameters in braces.
    pub path: String,
    pub access: Access,
    /// The operation's object.
    pub json: Value,
}

/// Path parameters for the app "shop". Of the resources that they name, only the app and its
/// function exist.
pub const OF_A_SHOP: [(&str, &str); 6] = [
    ("app", "shop"),
    ("version", "99"),
    ("token", "00000000000000000000000000000099"),
    ("function", "run"),
    ("name", "n"),
    ("id", "00000000-0000-0000-0000-000000000099"),
];

impl Operation {
    /// Returns the path with its parameters filled in, and the required query.
    pub fn target(&self, parameters: &[(&str, &str)]) -> String {
        let mut target = self.path.clone();
        for (name, value) in parameters {
            target = target.replace(&format!("{{{name}}}"), value);
        }
        assert!(!target.contains('{'), "{target} lacks a parameter");
        // Otherwise it never ends.
        let is_endless = self.path.ends_with("/kv/watch");
        if is_endless {
            target.push_str("?follow=false");
        }
        let mut separator = if is_endless { '&' } else { '?' };
        for parameter in self.parameters("query") {
            if parameter["required"] == true {
                let name = parameter["name"].as_str().unwrap();
                target.push_str(&format!("{separator}{name}=x"));
                separator = '&';
            }
        }
        target
    }

    pub fn parameters(&self, place: &str) -> Vec<Value> {
        let all = self.json["parameters"].as_array().cloned();
        let all = all.unwrap_or_default().into_iter();
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    pub fn names(&self, path: &str, method: &str) -> bool {
        self.path == path && self.method == method
    }
}

/// The document.
pub async fn document(api: &ApiClient) -> Value {
    api.get("/v1/openapi.json").await.expect(200).json()
}

/// The operations of a document.
pub fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, json) in item.as_object().unwrap() {
            operations.push(Operation {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                access: access(json, &document["security"]),
                json: json.clone(),
            });
        }
    }
    assert!(operations.len() > 30, "the document is too short");
    operations
}

fn access(operation: &Value, default: &Value) -> Access {
    let security = match &operation["security"] {
        Value::Null => default,
        own => own,
    };
    let Some(ways) = security.as_array().filter(|ways| !ways.is_empty()) else {
        return Access::Open;
    };
    let ways: Vec<BTreeMap<String, Vec<String>>> = ways
        .iter()
        .map(|way| serde_json::from_value(way.clone()).unwrap())
        .collect();
    if ways.iter().any(BTreeMap::is_empty) {
        return Access::Optional;
    }
    assert_eq!(ways.len(), 1, "{operation}");
    let scopes = &ways[0]["token"];
    match scopes.as_slice() {
        [] => Access::Token,
        [scope] => Access::Scope(scope.clone()),
        _ => panic!("{operation}"),
    }
}

/// Every reference of the document leads to one of its components.
#[tokio::test]
async fn references_of_the_document_resolve() {
    fn references<'d>(value: &'d Value, found: &mut Vec<&'d str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                for member in members.values() {
                    references(member, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let server = Server::start().await;
    let document = server.root.get("/v1/openapi.json").await.expect(200).json();
    let mut all = Vec::new();
    references(&document, &mut all);
    assert!(all.len() > 50);
    for reference in all {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn bytes_are_documented_as_bytes() {
    let server = Server::start().await;
    let all = operations(&document(&server.root).await);
    let bytes = json!({ "schema": { "type": "string", "format": "binary" } });
    for (path, method, place, media_type) in [
        (
            "/v1/apps/{app}/plugins",
            "POST",
            "/requestBody",
            "application/wasm",
        ),
        (
            "/v1/apps/{app}/kv/entry",
            "PUT",
            "/requestBody",
            "application/octet-stream",
        ),
        (
            "/v1/apps/{app}/kv/entry",
            "GET",
            "/responses/200",
            "application/octet-stream",
        ),
    ] {
        let operation = all.iter().find(|found| found.names(path, method)).unwrap();
        let body = operation.json.pointer(place).unwrap();
        assert_eq!(body["content"][media_type], bytes, "{method} {path}");
    }
}

/// A client generated from the document holds every integer that the server sends or accepts.
#[tokio::test]
async fn integers_of_the_document_fit_their_formats() {
    fn integers<'d>(value: &'d Value, found: &mut Vec<&'d Value>) {
        let is_integer = match &value["type"] {
            Value::Array(types) => types.iter().any(|name| name == "integer"),
            name => name == "integer",
        };
        if is_integer {
            found.push(value);
        }
        match value {
            Value::Object(members) => {
                members.values().for_each(|member| integers(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| integers(item, found)),
            _ => {}
        }
    }
    let server = Server::start().await;
    let document = document(&server.root).await;
    let mut all = Vec::new();
    integers(&document, &mut all);
    assert!(all.len() > 50);
    for schema in all {
        let bound = |member: &str| {
            let bound = schema[member].as_i64().map(i128::from);
            bound.or(schema[member].as_u64().map(i128::from))
        };
        let (Some(min), Some(max)) = (bound("minimum"), bound("maximum")) else {
            panic!("{schema} has no bounds");
        };
        let (least, most) = match schema["format"].as_str() {
            Some("int32") => (i32::MIN.into(), i32::MAX.into()),
            Some("int64") => (i64::MIN.into(), i64::MAX.into()),
            None => (0, u64::MAX.into()),
            Some(format) => panic!("{schema} has the format {format:?}"),
        };
        assert!(least <= min && min <= max && max <= most, "{schema}");
    }
}

#[tokio::test]
async fn refusals_and_formats_of_the_server_are_documented() {
    let server = Server::start().await;
    let document = document(&server.root).await;
    let all = operations(&document);
    for operation in all.iter().filter(|found| found.path.starts_with("/v1/")) {
        let misdirected = &operation.json["responses"]["421"];
        assert!(misdirected.is_object(), "{}", operation.path);
    }
    for (path, method, status) in [
        ("/v1/apps/{app}/config/{name}", "PUT", "507"),
        ("/v1/apps/{app}/secrets/{name}", "PUT", "507"),
        ("/v1/apps/{app}/kv/watch", "GET", "429"),
        ("/v1/apps/{app}/call/{function}", "POST", "410"),
    ] {
        let operation = all.iter().find(|found| found.names(path, method)).unwrap();
        let response = &operation.json["responses"][status];
        assert!(response.is_object(), "{method} {path} {status}");
    }
    let import = "/paths/~1v1~1apps~1{app}~1kv~1import/post/requestBody/content";
    let import = document.pointer(import).unwrap();
    for media_type in ["application/jsonl", "application/x-ndjson"] {
        assert!(import[media_type]["schema"].is_object(), "{media_type}");
    }
    let headers = "/components/schemas/HandlerRequest/properties/headers/items/prefixItems";
    let headers = document.pointer(headers).unwrap();
    assert_ne!(headers[0]["pattern"], headers[1]["pattern"]);
}
