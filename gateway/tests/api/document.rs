//! The OpenAPI document is true: it has every call that front ends rely on and no other, every reference in it leads somewhere, and
//! the router takes exactly the methods it names.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::schema::{self, Side};
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
async fn the_bounds_of_bodies_are_those_of_the_program() {
    let world = World::new().await;
    let (client, agent) = (world.client().await, world.agent().await);
    let path = world.converse(&client, &agent).await;
    let schemas = &world.document()["components"]["schemas"];
    let bound = |schema: &str, member: &str, name: &str| {
        let bound = schemas[schema]["properties"][member][name].as_u64();
        usize::try_from(bound.unwrap_or_else(|| panic!("{schema}.{member} has no {name}"))).unwrap()
    };
    let longest = |schema: &str, member: &str| "x".repeat(bound(schema, member, "maxLength"));
    let shortest = |schema: &str, member: &str| "x".repeat(bound(schema, member, "minLength"));
    // What fits exactly is taken; one character more or less, in any one member, is not.
    let messages = format!("{path}/messages");
    for (path, schema, shape, status) in [
        (
            "/api/auth/register",
            "Registration",
            json!({"firstName": 1, "lastName": 1, "password": 8, "company": 0, "phone": 0, "country": 0}),
            201,
        ),
        (
            &messages,
            "Draft",
            json!({"message": 1, "clientMessageId": 1}),
            201,
        ),
        (
            "/api/auth/me",
            "ProfilePatch",
            json!({"firstName": 0, "lastName": 0, "company": 0, "phone": 0, "profilePicture": 0}),
            200,
        ),
    ] {
        let method = if schema == "ProfilePatch" {
            Method::PATCH
        } else {
            Method::POST
        };
        let send = async |body: &Value| {
            world
                .call(method.clone(), path)
                .by(&client)
                .json(body)
                .await
        };
        let mut whole = json!({"email": world.fresh_email("bounds")});
        for member in shape.as_object().unwrap().keys() {
            whole[member] = longest(schema, member).into();
        }
        send(&whole).await.data(status);
        for (member, least) in shape.as_object().unwrap() {
            let mut longer = whole.clone();
            longer[member] = format!("{}x", longest(schema, member)).into();
            send(&longer).await.failure(400, "VALIDATION_ERROR");
            if *least == 0 {
                continue;
            }
            assert_eq!(
                shortest(schema, member).len() as u64,
                least.as_u64().unwrap()
            );
            let mut shorter = whole.clone();
            shorter[member] = shortest(schema, member)[1..].into();
            let code = if member == "message" {
                "EMPTY_MESSAGE"
            } else {
                "VALIDATION_ERROR"
            };
            send(&shorter).await.failure(400, code);
        }
    }
}

#[tokio::test]
async fn the_bounds_of_pages_are_those_of_the_program() {
    let world = World::new().await;
    let (client, agent) = (world.client().await, world.agent().await);
    let path = world.converse(&client, &agent).await;
    let members = &world.document()["components"]["schemas"]["Sync"]["properties"];
    let bound = |member: &str, name: &str| members[member][name].as_u64().unwrap();
    let sync = async |body: Value| {
        let call = world.post("/api/chat/sync").by(&client);
        call.json(&body).await.status.as_u16()
    };
    let most = bound("limit", "maximum");
    let least = bound("limit", "minimum");
    assert_eq!(sync(json!({"limit": most})).await, 200);
    assert_eq!(sync(json!({"limit": most + 1})).await, 400);
    assert_eq!(sync(json!({"limit": least})).await, 200);
    assert_eq!(sync(json!({"limit": least - 1})).await, 400);
    let most_positions = usize::try_from(bound("conversations", "maxItems")).unwrap();
    let id: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
    let position = json!({"conversationId": id, "afterEventSeq": 0});
    assert_ne!(
        sync(json!({"conversations": vec![&position; most_positions]})).await,
        400
    );
    assert_eq!(
        sync(json!({"conversations": vec![&position; most_positions + 1]})).await,
        400
    );

    for path in ["/api/chat/conversations", &format!("{path}/messages")] {
        let pattern = path.replace(&format!("/{id}/"), "/{id}/");
        let parameters = world.document()["paths"][&pattern]["get"]["parameters"].as_array();
        let is_limit = |one: &&Value| one["name"] == "limit";
        let limit = &parameters.unwrap().iter().find(is_limit).unwrap()["schema"];
        let (least, most) = (
            limit["minimum"].as_u64().unwrap(),
            limit["maximum"].as_u64().unwrap(),
        );
        for (limit, status) in [(least - 1, 400), (least, 200), (most, 200), (most + 1, 400)] {
            let call = world.get(&format!("{path}?limit={limit}")).by(&client);
            assert_eq!(call.send().await.status.as_u16(), status, "{path} {limit}");
        }
    }
}

#[tokio::test]
async fn the_examples_of_bodies_fit() {
    let world = World::new().await;
    let schemas = world.document()["components"]["schemas"]
        .as_object()
        .unwrap();
    let mut seen = 0;
    for (name, schema) in schemas {
        if let Some(example) = schema.get("example") {
            schema::check(world.document(), schema, example, Side::Sent)
                .unwrap_or_else(|fault| panic!("{name}: {fault}"));
            seen += 1;
        }
    }
    // Each body that a call takes has one.
    assert!(seen >= 9, "only {seen} schemas have an example");
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
