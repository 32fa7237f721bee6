//! The OpenAPI document is true: it has every call that front ends rely on and no other, every reference in it leads somewhere, and
//! the router takes exactly the methods it names.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use super::world::World;

/// What front ends may call. A change here is a change for them.
const CALLS: [(&str, &str); 19] = [
    ("post", "/api/auth/register"),
    ("post", "/api/auth/login"),
    ("post", "/api/auth/refresh"),
    ("post", "/api/auth/logout"),
    ("get", "/api/auth/me"),
    ("patch", "/api/auth/me"),
    ("post", "/api/auth/password"),
    ("get", "/api/chat/conversations"),
    ("post", "/api/chat/conversations"),
    ("get", "/api/chat/conversations/{id}"),
    ("delete", "/api/chat/conversations/{id}"),
    ("get", "/api/chat/conversations/{id}/messages"),
    ("post", "/api/chat/conversations/{id}/messages"),
    ("post", "/api/chat/conversations/{id}/read"),
    ("post", "/api/chat/sync"),
    ("get", "/api/chat/online"),
    ("get", "/api/chat/unread-count"),
    ("get", "/healthz"),
    ("get", "/readyz"),
];

/// Method and path of every call that the document describes.
pub(crate) fn described(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(|method| (method.clone(), path.clone()))
        })
        .collect()
}

#[tokio::test]
async fn every_call_of_the_contract_is_described_and_no_other() {
    let world = World::new().await;
    let described: BTreeSet<_> = described(world.document()).into_iter().collect();
    let expected: BTreeSet<_> = CALLS
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .into();
    assert_eq!(described, expected);
}

#[tokio::test]
async fn the_router_takes_the_methods_that_are_described() {
    let world = World::new().await;
    let described = described(world.document());
    let paths: BTreeSet<_> = described.iter().map(|(_, path)| path).collect();
    for pattern in paths {
        let path = pattern.replace("{id}", "1");
        let mut expected: BTreeSet<String> = described
            .iter()
            .filter(|(_, one)| one == pattern)
            .map(|(method, _)| method.to_uppercase())
            .collect();
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let answer = world.call(method.clone(), &path).send().await;
            assert_eq!(
                answer.status == 405,
                !expected.contains(method.as_str()),
                "{method} {path}: {}",
                answer.text
            );
        }
        let refused = world.call(Method::PUT, &path).send().await;
        refused.failure(405, "METHOD_NOT_ALLOWED");
        let allowed: BTreeSet<String> = refused
            .header("allow")
            .split(',')
            .map(|one| one.trim().to_owned())
            .collect();
        // A router that answers GET answers HEAD, too.
        if expected.contains("GET") {
            expected.insert("HEAD".to_owned());
        }
        assert_eq!(allowed, expected, "{path}");
    }
}

#[tokio::test]
async fn the_document_is_served_and_whole() {
    let world = World::new().await;
    let served = world.get("/api/openapi.json").send().await;
    assert_eq!(&served.body, world.document());
    assert!(served.body["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut references = BTreeSet::new();
    collect_references(&served.body, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        assert!(
            served
                .body
                .pointer(reference.trim_start_matches('#'))
                .is_some(),
            "{reference} is nowhere"
        );
    }
    let schemes = served.body["components"]["securitySchemes"]
        .as_object()
        .unwrap();
    let ids = served.body["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values());
    let mut seen = BTreeSet::new();
    for operation in ids {
        assert!(
            seen.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{operation}"
        );
        for scheme in operation["security"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|one| one.as_object().unwrap().keys())
        {
            assert!(schemes.contains_key(scheme), "{scheme}");
        }
    }
}

#[tokio::test]
async fn the_documentation_is_a_page() {
    let world = World::new().await;
    let moved = world.get("/api/docs").send().await;
    assert!(moved.status.is_redirection());
    let page = world.get(moved.header("location")).send().await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("swagger-ui"));
    // Nothing of it comes from elsewhere.
    assert!(!page.text.contains("://"));
    world
        .get("/api/docs/nothing.js")
        .send()
        .await
        .failure(404, "NOT_FOUND");
}

fn collect_references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            into.extend(
                members
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            members
                .values()
                .for_each(|value| collect_references(value, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
        _ => {}
    }
}
