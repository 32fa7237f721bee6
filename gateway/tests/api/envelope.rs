//! What no single call answers for: unknown routes and methods, other origins, sizes, details, metrics.

use axum::body::{Body, Bytes};
use futures_util::stream;
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, CONTENT_TYPE,
    ORIGIN,
};
use http::{HeaderName, Method};
use serde_json::json;

use super::world::{Answer, World};

const PRODUCTION: (&str, &str) = ("APP_ENV", "production");

#[tokio::test]
async fn a_client_that_is_still_sending_keeps_nobody_out() {
    let world = World::with(&[("MAX_REQUESTS_IN_FLIGHT", "1")]).await;
    let client = world.client().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(1);
    sender.send(Ok("{")).await.unwrap();
    let body = Body::from_stream(stream::unfold(receiver, async |mut parts| {
        Some((parts.recv().await?, parts))
    }));
    let slow = world
        .post("/api/chat/conversations")
        .by(&client)
        .header(CONTENT_TYPE, "application/json");
    let slow = slow.body(body);
    let others = async {
        while sender.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        let list = world.get("/api/chat/conversations").by(&client).send();
        list.await.data(200);
        sender.send(Ok("}")).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = tokio::join!(slow, others);
    // There is nobody to talk to.
    answer.failure(409, "NO_AGENT");
}

#[tokio::test]
async fn unknown_routes_answer_in_the_envelope() {
    let world = World::new().await;
    for path in [
        "/",
        "/nothing",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/auth",
        "/api/auth/me/",
        "/api/chat/conversations/1/x",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = world.call(method, path).send().await;
            answer.failure(404, "NOT_FOUND");
            assert_eq!(answer.header("content-type"), "application/json");
        }
    }
}

#[tokio::test]
async fn unknown_methods_are_told_the_known_ones() {
    let world = World::new().await;
    let answer = world
        .call(Method::PUT, "/api/chat/conversations")
        .send()
        .await;
    answer.failure(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    let odd = Method::from_bytes(b"BREW").unwrap();
    world
        .call(odd, "/api/auth/me")
        .send()
        .await
        .failure(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn answers_are_not_for_caches() {
    let world = World::new().await;
    let client = world.client().await;
    assert_eq!(
        world
            .get("/api/auth/me")
            .by(&client)
            .send()
            .await
            .header("cache-control"),
        "no-store"
    );
    assert_eq!(
        world
            .get("/api/auth/me")
            .send()
            .await
            .header("cache-control"),
        "no-store"
    );
}

#[tokio::test]
async fn a_body_has_256_kib_at_the_most_however_it_comes() {
    let world = World::new().await;
    let login = |bytes: usize| {
        let frame = r#"{"email":"a@b.c","password":"12345678","more":""}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    let call = || {
        world
            .post("/api/auth/login")
            .header(CONTENT_TYPE, "application/json")
    };
    call()
        .raw(login(256 * 1024).into_bytes())
        .await
        .failure(401, "INVALID_CREDENTIALS");
    call()
        .raw(login(256 * 1024 + 1).into_bytes())
        .await
        .failure(413, "PAYLOAD_TOO_LARGE");
    // In pieces, without a length.
    let pieces = |count: usize| {
        Body::from_stream(stream::iter(
            (0..count).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8 * 1024]))),
        ))
    };
    call()
        .body(pieces(32))
        .await
        .failure(400, "VALIDATION_ERROR");
    call()
        .body(pieces(33))
        .await
        .failure(413, "PAYLOAD_TOO_LARGE");
    // A body without an end is not read to it.
    call()
        .body(pieces(usize::MAX))
        .await
        .failure(413, "PAYLOAD_TOO_LARGE");
    let announced = call().header(CONTENT_LENGTH, "99999999999");
    announced
        .body(pieces(usize::MAX))
        .await
        .failure(413, "PAYLOAD_TOO_LARGE");
    let other_type = world
        .post("/api/auth/login")
        .header(CONTENT_TYPE, "text/plain");
    other_type
        .body(pieces(usize::MAX))
        .await
        .failure(415, "UNSUPPORTED_MEDIA_TYPE");
    // One that breaks off is the sender's fault.
    let broken = stream::iter([
        Ok(Bytes::from_static(b"{")),
        Err(std::io::Error::other("gone")),
    ]);
    call()
        .body(Body::from_stream(broken))
        .await
        .failure(400, "VALIDATION_ERROR");
}

#[tokio::test]
async fn details_are_for_development() {
    for (settings, shown) in [(vec![], true), (vec![PRODUCTION], false)] {
        let world = World::with(&settings).await;
        let client = world.client().await;
        world.store.close().await;
        let answer = world.get("/api/auth/me").by(&client).send().await;
        answer.failure(503, "SERVICE_UNAVAILABLE");
        assert_eq!(answer.body["error"].get("details").is_some(), shown);
    }
}

async fn preflight(world: &World, origin: &str) -> Answer {
    let call = world.call(Method::OPTIONS, "/api/auth/me");
    call.header(ORIGIN, origin)
        .header(ACCESS_CONTROL_REQUEST_METHOD, "PATCH")
        .header(ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type")
        .send()
        .await
}

async fn simple(world: &World, origin: &str) -> Answer {
    world
        .get("/api/auth/me")
        .header(ORIGIN, origin)
        .send()
        .await
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    let world = World::with(&[
        PRODUCTION,
        (
            "CORS_ORIGINS",
            "https://app.example.com, https://other.example.com",
        ),
    ])
    .await;
    let origin = "https://app.example.com";
    let allowed = preflight(&world, origin).await;
    assert!(allowed.status.is_success());
    assert_eq!(allowed.header(ALLOW_ORIGIN), origin);
    assert_eq!(allowed.header(ALLOW_CREDENTIALS), "true");
    assert!(
        allowed
            .header("access-control-allow-methods")
            .contains("PATCH")
    );
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        "authorization,content-type"
    );
    assert!(allowed.header("vary").to_lowercase().contains("origin"));
    // A refusal must be readable, too.
    let answer = simple(&world, origin).await;
    answer.failure(401, "MISSING_TOKEN");
    assert_eq!(answer.header(ALLOW_ORIGIN), origin);
    assert_eq!(
        answer.header("access-control-expose-headers"),
        "retry-after"
    );
    for stranger in ["https://evil.example.com", "http://app.example.com", "null"] {
        assert_eq!(preflight(&world, stranger).await.header(ALLOW_ORIGIN), "");
        assert_eq!(simple(&world, stranger).await.header(ALLOW_ORIGIN), "");
    }
}

#[tokio::test]
async fn in_production_no_page_may_call_unless_listed_and_in_development_any() {
    let origin = "http://localhost:3000";
    let production = World::with(&[PRODUCTION]).await;
    assert_eq!(simple(&production, origin).await.header(ALLOW_ORIGIN), "");
    let development = World::new().await;
    assert_eq!(
        simple(&development, origin).await.header(ALLOW_ORIGIN),
        origin
    );
    assert_eq!(
        preflight(&development, origin)
            .await
            .header(ALLOW_CREDENTIALS),
        "true"
    );
}

#[test]
fn requests_are_counted_by_route_and_not_by_path() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let world = World::with(&[("RATE_LIMIT_REQUESTS_PER_SECOND", "3")]).await;
            let agent = world.agent().await;
            for id in [98_701, 98_702] {
                let path = format!("/api/chat/conversations/{id}");
                world
                    .get(&path)
                    .by(&agent)
                    .send()
                    .await
                    .failure(404, "CONVERSATION_NOT_FOUND");
            }
            world
                .get("/wp-login.php")
                .send()
                .await
                .failure(404, "NOT_FOUND");
            world
                .call(Method::from_bytes(b"BREW").unwrap(), "/coffee")
                .send()
                .await
                .failure(404, "NOT_FOUND");
            world.get("/api/auth/me").by(&agent).send().await.data(200);
            world
                .get("/api/auth/me")
                .by(&agent)
                .send()
                .await
                .failure(429, "RATE_LIMITED");
            let header = HeaderName::from_static("x-forwarded-for");
            world
                .post("/api/auth/login")
                .header(header, "1.2.3.4")
                .json(&json!({}))
                .await
                .failure(400, "VALIDATION_ERROR");
        });
    });
    let text = shown.render();
    for line in [
        r#"chat_http_requests_total{method="GET",route="/api/chat/conversations/{id}",status="404"} 2"#,
        r#"chat_http_requests_total{method="GET",route="unmatched",status="404"} 1"#,
        r#"chat_http_requests_total{method="OTHER",route="unmatched",status="404"} 1"#,
        r#"chat_http_requests_total{method="GET",route="/api/auth/me",status="429"} 1"#,
        r#"chat_errors_total{code="CONVERSATION_NOT_FOUND"} 2"#,
        r#"chat_errors_total{code="NOT_FOUND"} 2"#,
        r#"chat_rate_limited_total{limit="requests"} 1"#,
        r#"chat_http_request_seconds_count{method="GET",route="/api/auth/me"} 2"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("98701"));
}
