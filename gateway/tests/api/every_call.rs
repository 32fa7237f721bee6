//! What holds for every call alike, asked of every call that the document describes.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, Method};
use serde_json::{Value, json};
use shared::Role;

use super::document::described;
use super::world::World;

/// Every call, with its description.
fn calls(world: &World) -> Vec<(Method, String, Value)> {
    described(world.document())
        .into_iter()
        .map(|(method, path)| {
            let operation = world.document()["paths"][&path][&method].clone();
            (
                method.to_uppercase().parse().unwrap(),
                path.replace("{id}", "1"),
                operation,
            )
        })
        .collect()
}

fn needs_token(operation: &Value) -> bool {
    operation["security"]
        .as_array()
        .is_some_and(|schemes| schemes.iter().any(|one| one.get("bearer").is_some()))
}

fn takes_body(operation: &Value) -> bool {
    operation["requestBody"].is_object()
}

/// Asks every call that `wanted` picks, each to be refused in the same way.
async fn all_refuse(
    world: &World,
    wanted: impl Fn(&Value) -> bool,
    body: &[u8],
    headers: &[(HeaderName, &str)],
    (status, code): (u16, &str),
) {
    let mut asked = 0;
    for (method, path, operation) in calls(world) {
        if wanted(&operation) {
            let mut call = world.call(method, &path);
            for (name, value) in headers {
                call = call.header(name.clone(), value);
            }
            let answer = call.raw(body.to_vec()).await;
            answer.failure(status, code);
            assert_eq!(
                answer.header("retry-after").is_empty(),
                !matches!(status, 429 | 503),
                "{path}"
            );
            asked += 1;
        }
    }
    assert!(asked >= 9, "only {asked} calls were asked");
}

#[tokio::test]
async fn a_token_is_needed_and_must_be_good() {
    let world = World::new().await;
    let client = world.client().await;
    let expired = format!("Bearer {}", world.expired_token(&client.user));
    for (authorization, code) in [
        ("", "MISSING_TOKEN"),
        ("Bearer", "MISSING_TOKEN"),
        ("Bearer nonsense", "INVALID_TOKEN"),
        ("Basic dTpw", "INVALID_TOKEN"),
        (&expired, "TOKEN_EXPIRED"),
    ] {
        // What is wrong with the body is nobody's business before it is known who asks.
        let headers = [(AUTHORIZATION, authorization)];
        all_refuse(&world, needs_token, b"{", &headers, (401, code)).await;
    }
    all_refuse(&world, needs_token, b"{", &[], (401, "MISSING_TOKEN")).await;
}

#[tokio::test]
async fn nobody_is_let_in_before_it_is_known_who_was_thrown_out() {
    let world = World::without_revocations().await;
    let client = world.client().await;
    all_refuse(
        &world,
        needs_token,
        b"",
        &[(AUTHORIZATION, &client.authorization())],
        (503, "SERVICE_UNAVAILABLE"),
    )
    .await;
}

#[tokio::test]
async fn a_person_who_asks_too_often_is_told_to_wait() {
    let world = World::with(&[("RATE_LIMIT_REQUESTS_PER_SECOND", "1")]).await;
    for (method, path, operation) in calls(&world) {
        if needs_token(&operation) {
            let client = world.client().await;
            world.get("/api/auth/me").by(&client).send().await.data(200);
            let answer = world.call(method, &path).by(&client).send().await;
            answer.failure(429, "RATE_LIMITED");
            assert_eq!(answer.header("retry-after"), "1");
        }
    }
}

#[tokio::test]
async fn a_body_is_a_json_object_of_bounded_size() {
    let world = World::new().await;
    let client = world.client().await;
    let authorization = client.authorization();
    let refuse = async |body: &[u8], content_type: &'static str, expected| {
        let headers = [
            (AUTHORIZATION, authorization.as_str()),
            (CONTENT_TYPE, content_type),
        ];
        all_refuse(&world, takes_body, body, &headers, expected).await;
    };
    for body in ["{", "null", "[]", "17", "\"x\"", "{}{}", "\u{feff}{}"] {
        refuse(
            body.as_bytes(),
            "application/json",
            (400, "VALIDATION_ERROR"),
        )
        .await;
    }
    refuse(
        b"{\"x\":\"\xff\xfe\"}",
        "application/json",
        (400, "VALIDATION_ERROR"),
    )
    .await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        refuse(b"{}", content_type, (415, "UNSUPPORTED_MEDIA_TYPE")).await;
    }
    let large = format!("{{\"more\":\"{}\"}}", "x".repeat(256 * 1024));
    refuse(
        large.as_bytes(),
        "application/json",
        (413, "PAYLOAD_TOO_LARGE"),
    )
    .await;
}

#[tokio::test]
async fn members_of_a_wrong_type_are_named() {
    let world = World::new().await;
    let client = world.client().await;
    for (path, body, name) in [
        ("/api/auth/register", json!({"email": 7}), "email"),
        (
            "/api/auth/register",
            json!({"email": "a@example.com", "password": "12345678", "firstName": "A"}),
            "lastName",
        ),
        (
            "/api/auth/login",
            json!({"email": "a@example.com"}),
            "password",
        ),
        (
            "/api/auth/login",
            json!({"email": "a@b.c", "password": "x", "refreshIn": "header"}),
            "refreshIn",
        ),
        (
            "/api/auth/refresh",
            json!({"refreshToken": 7}),
            "refreshToken",
        ),
        (
            "/api/auth/password",
            json!({"currentPassword": "x"}),
            "newPassword",
        ),
        (
            "/api/chat/conversations",
            json!({"agencyId": "one"}),
            "agencyId",
        ),
        (
            "/api/chat/conversations/1/messages",
            json!({"message": 7}),
            "message",
        ),
        (
            "/api/chat/conversations/1/messages",
            json!({"message": "x", "clientMessageId": 7}),
            "clientMessageId",
        ),
        (
            "/api/chat/conversations/1/read",
            json!({"upToSeq": -1}),
            "upToSeq",
        ),
        (
            "/api/chat/sync",
            json!({"conversations": [{"conversationId": 1}]}),
            "afterEventSeq",
        ),
        (
            "/api/chat/sync",
            json!({"conversations": [{"conversationId": 0, "afterEventSeq": 0}]}),
            "conversationId",
        ),
    ] {
        let answer = world.post(path).by(&client).json(&body).await;
        let message = answer.failure(400, "VALIDATION_ERROR");
        assert!(message.contains(name), "{path}: {message}");
    }
}

#[tokio::test]
async fn a_database_that_is_gone_is_said_to_be_unavailable() {
    let world = World::new().await;
    let (client, agent) = (world.client().await, world.agent().await);
    world.store.close().await;
    let bodies = [
        (
            "/api/auth/register",
            json!({"email": "new@example.com", "password": "12345678", "firstName": "A", "lastName": "B"}),
        ),
        (
            "/api/auth/login",
            json!({"email": "a@example.com", "password": "12345678"}),
        ),
        ("/api/auth/refresh", json!({"refreshToken": "A".repeat(43)})),
        (
            "/api/auth/password",
            json!({"currentPassword": "12345678", "newPassword": "87654321"}),
        ),
        (
            "/api/chat/conversations/1/messages",
            json!({"message": "hello"}),
        ),
    ];
    for (method, path, operation) in calls(&world) {
        if path == "/healthz" || path == "/readyz" {
            continue;
        }
        let person = if method == Method::DELETE {
            &agent
        } else {
            &client
        };
        let body = bodies
            .iter()
            .find(|(one, _)| *one == path)
            .map_or_else(|| json!({}), |(_, body)| body.clone());
        let call = world.call(method, &path).by(person);
        let answer = if takes_body(&operation) {
            call.json(&body).await
        } else {
            call.send().await
        };
        answer.failure(503, "SERVICE_UNAVAILABLE");
        assert!(!answer.header("retry-after").is_empty());
    }
}

#[tokio::test]
async fn somebody_without_an_account_any_more_is_not_found() {
    let world = World::new().await;
    let nobody = world.nobody(Role::User);
    world
        .get("/api/auth/me")
        .by(&nobody)
        .send()
        .await
        .failure(404, "USER_NOT_FOUND");
    world
        .patch("/api/auth/me")
        .by(&nobody)
        .json(&json!({"phone": "1"}))
        .await
        .failure(404, "USER_NOT_FOUND");
    let passwords = json!({"currentPassword": "12345678", "newPassword": "87654321"});
    world
        .post("/api/auth/password")
        .by(&nobody)
        .json(&passwords)
        .await
        .failure(404, "USER_NOT_FOUND");
}
