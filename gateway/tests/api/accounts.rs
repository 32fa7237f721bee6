//! The calls under `/api/auth`. The rules of passwords, tokens and families are `auth`'s own tests; here is what travels.

use http::HeaderName;
use serde_json::{Value, json};

use super::world::{Answer, World};

const PASSWORD: &str = "correct horse";

fn registration(world: &World) -> Value {
    json!({"email": world.fresh_email("person"), "password": PASSWORD, "firstName": "Rita", "lastName": "Registered"})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

async fn register(world: &World, body: &Value) -> Answer {
    world.post("/api/auth/register").json(body).await
}

async fn refresh(world: &World, cookie: &str) -> Answer {
    world.post("/api/auth/refresh").cookie(cookie).send().await
}

fn token(answer: &Answer) -> &str {
    answer.body["data"]["token"].as_str().unwrap()
}

#[tokio::test]
async fn registering_signs_a_client_in() {
    let world = World::new().await;
    let body = with(registration(&world), "role", json!("admin"));
    let answer = register(&world, &body).await;
    let data = answer.data(201);
    assert_eq!(data["expiresIn"], 3600);
    assert_eq!(data["user"]["email"], body["email"]);
    assert_eq!(data["user"]["role"], "user");
    assert!(data["user"].get("password").is_none());
    assert!(data.get("refreshToken").is_none(), "it is in the cookie");
    let me = world.get("/api/auth/me").token(token(&answer)).send().await;
    assert_eq!(me.data(200)["user"], data["user"]);
}

#[tokio::test]
async fn a_registration_that_can_not_be_is_refused() {
    let world = World::new().await;
    for (name, value) in [
        ("email", json!("no address")),
        ("password", json!("seven77")),
        ("password", json!("x".repeat(73))),
        ("firstName", json!("")),
        ("firstName", json!("x".repeat(256))),
        ("lastName", json!(null)),
        ("company", json!(7)),
        ("refreshIn", json!("header")),
    ] {
        let answer = register(&world, &with(registration(&world), name, value)).await;
        let message = answer.failure(400, "VALIDATION_ERROR");
        assert!(message.contains(name), "{name}: {message}");
        assert!(answer.refresh_cookie().is_none());
    }
    let body = registration(&world);
    register(&world, &body).await.data(201);
    let upper = body["email"].as_str().unwrap().to_uppercase();
    register(&world, &with(body, "email", json!(upper)))
        .await
        .failure(409, "EMAIL_TAKEN");
}

#[tokio::test]
async fn the_refresh_token_is_a_cookie_that_scripts_and_other_sites_do_not_get() {
    for (settings, is_secure) in [
        (vec![], false),
        (
            vec![("APP_ENV", "production"), ("REFRESH_TOKEN_DAYS", "2")],
            true,
        ),
    ] {
        let world = World::with(&settings).await;
        let body = registration(&world);
        let registered = register(&world, &body).await;
        let login = json!({"email": body["email"], "password": PASSWORD, "refreshIn": "cookie"});
        let logged_in = world.post("/api/auth/login").json(&login).await;
        logged_in.data(200);
        for answer in [registered, logged_in] {
            let (value, attributes) = answer.refresh_cookie().unwrap();
            assert!(value.len() >= 32);
            for expected in ["httponly", "samesite=strict", "path=/api/auth"] {
                assert!(
                    attributes.iter().any(|one| one == expected),
                    "{attributes:?}"
                );
            }
            assert_eq!(attributes.iter().any(|one| one == "secure"), is_secure);
            let life = if is_secure {
                2 * 24 * 3600
            } else {
                30 * 24 * 3600
            };
            assert!(
                attributes.contains(&format!("max-age={life}")),
                "{attributes:?}"
            );
        }
    }
}

#[tokio::test]
async fn login_refuses_in_one_way() {
    let world = World::new().await;
    let body = registration(&world);
    register(&world, &body).await.data(201);
    let login = async |email: &Value, password: &str| {
        world
            .post("/api/auth/login")
            .json(&json!({"email": email, "password": password}))
            .await
    };
    let wrong = login(&body["email"], "wrong horse").await;
    let unknown = login(&json!("nobody@example.com"), PASSWORD).await;
    wrong.failure(401, "INVALID_CREDENTIALS");
    assert_eq!(wrong.text, unknown.text);
    login(&body["email"], &"x".repeat(100))
        .await
        .failure(401, "INVALID_CREDENTIALS");
    login(&body["email"], "")
        .await
        .failure(400, "VALIDATION_ERROR");
    assert!(wrong.refresh_cookie().is_none());
}

#[tokio::test]
async fn logins_are_limited_by_the_address_behind_the_proxies() {
    let world = World::with(&[
        ("RATE_LIMIT_LOGINS_PER_MINUTE", "2"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let forwarded = HeaderName::from_static("x-forwarded-for");
    let login = async |hops: &str, peer: &str| {
        // Each for another account.
        let body = json!({"email": world.fresh_email("nobody"), "password": PASSWORD});
        world
            .post("/api/auth/login")
            .from(peer)
            .header(forwarded.clone(), hops)
            .json(&body)
            .await
    };
    for _ in 0..2 {
        login("203.0.113.1", "127.0.0.1")
            .await
            .failure(401, "INVALID_CREDENTIALS");
    }
    // What a client says before its proxy does not help it.
    let refused = login("198.51.100.7, 203.0.113.1", "127.0.0.1").await;
    refused.failure(429, "RATE_LIMITED");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    login("203.0.113.2", "127.0.0.1")
        .await
        .failure(401, "INVALID_CREDENTIALS");
    // A peer that is no proxy of ours is not believed.
    login("203.0.113.1", "192.0.2.1")
        .await
        .failure(401, "INVALID_CREDENTIALS");
}

#[tokio::test]
async fn refreshing_by_cookie_rotates_it() {
    let world = World::new().await;
    let registered = register(&world, &registration(&world)).await;
    let (first, _) = registered.refresh_cookie().unwrap();
    let answer = refresh(&world, &first).await;
    assert_eq!(answer.data(200)["expiresIn"], 3600);
    assert!(answer.data(200).get("refreshToken").is_none());
    let (second, attributes) = answer.refresh_cookie().unwrap();
    assert_ne!(first, second);
    assert!(attributes.contains(&"httponly".to_owned()));
    world
        .get("/api/auth/me")
        .token(token(&answer))
        .send()
        .await
        .data(200);
    // A second tab gets an access token, and no cookie that would displace the first tab's.
    let second_tab = refresh(&world, &first).await;
    second_tab.data(200);
    assert!(second_tab.refresh_cookie().is_none());
    refresh(&world, &second).await.data(200);
}

#[tokio::test]
async fn the_refresh_token_travels_in_bodies_where_that_was_asked_for() {
    let world = World::new().await;
    let body = with(registration(&world), "refreshIn", json!("body"));
    let registered = register(&world, &body).await;
    assert!(registered.refresh_cookie().is_none());
    assert!(registered.data(201)["refreshToken"].is_string());
    let login = json!({"email": body["email"], "password": PASSWORD, "refreshIn": "body"});
    let logged_in = world.post("/api/auth/login").json(&login).await;
    let shown = logged_in.data(200)["refreshToken"].clone();
    // The body counts, whatever cookie the browser adds.
    let again = json!({"refreshToken": shown});
    let refreshed = world
        .post("/api/auth/refresh")
        .cookie("other")
        .json(&again)
        .await;
    assert!(refreshed.refresh_cookie().is_none());
    let next = &refreshed.data(200)["refreshToken"];
    assert_ne!(*next, shown);
    let second_tab = world.post("/api/auth/refresh").json(&again).await;
    assert!(second_tab.data(200).get("refreshToken").is_none());
    world
        .post("/api/auth/refresh")
        .json(&json!({"refreshToken": next}))
        .await
        .data(200);
}

#[tokio::test]
async fn refreshing_without_a_token_or_with_none_of_ours() {
    let world = World::new().await;
    world
        .post("/api/auth/refresh")
        .send()
        .await
        .failure(401, "MISSING_TOKEN");
    for body in [
        json!({}),
        json!({"refreshToken": null}),
        json!({"refreshToken": ""}),
    ] {
        world
            .post("/api/auth/refresh")
            .json(&body)
            .await
            .failure(401, "MISSING_TOKEN");
    }
    let unknown = json!({"refreshToken": "A".repeat(43)});
    world
        .post("/api/auth/refresh")
        .json(&unknown)
        .await
        .failure(401, "INVALID_TOKEN");
    refresh(&world, "nonsense")
        .await
        .failure(401, "INVALID_TOKEN");
}

#[tokio::test]
async fn logging_out_ends_the_session_and_takes_the_cookie_away() {
    let world = World::new().await;
    let registered = register(&world, &registration(&world)).await;
    let (cookie, _) = registered.refresh_cookie().unwrap();
    let answer = world
        .post("/api/auth/logout")
        .token(token(&registered))
        .send()
        .await;
    answer.nothing();
    let (value, attributes) = answer.refresh_cookie().unwrap();
    assert_eq!(value, "");
    for expected in ["max-age=0", "path=/api/auth", "httponly", "samesite=strict"] {
        assert!(
            attributes.iter().any(|one| one == expected),
            "{attributes:?}"
        );
    }
    world
        .get("/api/auth/me")
        .token(token(&registered))
        .send()
        .await
        .failure(401, "INVALID_TOKEN");
    refresh(&world, &cookie).await.failure(401, "INVALID_TOKEN");
}

#[tokio::test]
async fn a_new_password_ends_every_other_session() {
    let world = World::new().await;
    let body = registration(&world);
    let here = register(&world, &body).await;
    let login = json!({"email": body["email"], "password": PASSWORD});
    let elsewhere = world.post("/api/auth/login").json(&login).await;
    let change = async |current: &str, new: &str| {
        let body = json!({"currentPassword": current, "newPassword": new});
        world
            .post("/api/auth/password")
            .token(token(&here))
            .json(&body)
            .await
    };
    change("wrong horse", "battery staple")
        .await
        .failure(401, "INVALID_CREDENTIALS");
    change(PASSWORD, "short")
        .await
        .failure(400, "VALIDATION_ERROR");
    change(PASSWORD, "battery staple").await.nothing();
    world
        .get("/api/auth/me")
        .token(token(&elsewhere))
        .send()
        .await
        .failure(401, "INVALID_TOKEN");
    world
        .get("/api/auth/me")
        .token(token(&here))
        .send()
        .await
        .data(200);
    world
        .post("/api/auth/login")
        .json(&login)
        .await
        .failure(401, "INVALID_CREDENTIALS");
}

#[tokio::test]
async fn changing_a_password_is_limited_like_a_login() {
    let world = World::with(&[("RATE_LIMIT_LOGINS_PER_MINUTE", "1")]).await;
    let registered = register(&world, &registration(&world)).await;
    let body = json!({"currentPassword": "wrong horse", "newPassword": "battery staple"});
    let change = async || {
        world
            .post("/api/auth/password")
            .token(token(&registered))
            .json(&body)
            .await
    };
    change().await.failure(401, "INVALID_CREDENTIALS");
    change().await.failure(429, "RATE_LIMITED");
}

#[tokio::test]
async fn a_profile_is_changed_member_by_member() {
    let world = World::new().await;
    let client = world.client().await;
    let patch = async |body: Value| world.patch("/api/auth/me").by(&client).json(&body).await;
    let change = json!({
        "firstName": "Zo\u{eb}", "lastName": null, "company": null, "phone": "+1",
        "profilePicture": "https://example.com/z.png", "isOnboardingCompleted": true,
    });
    let changed = patch(change.clone()).await;
    for (name, value) in change.as_object().unwrap() {
        assert_eq!(&changed.data(200)["user"][name], value, "{name}");
    }
    let once = patch(json!({"phone": "+2"})).await;
    assert_eq!(once.data(200)["user"]["firstName"], "Zo\u{eb}");
    assert_eq!(once.data(200)["user"]["phone"], "+2");
    let me = world.get("/api/auth/me").by(&client).send().await;
    assert_eq!(me.data(200), once.data(200));
    // What can't be changed is passed over.
    let before = me.data(200)["user"].clone();
    let vain =
        patch(json!({"role": "admin", "id": 1, "email": "other@example.com", "password": "x"}))
            .await;
    for name in ["role", "id", "email"] {
        assert_eq!(vain.data(200)["user"][name], before[name]);
    }
    for (name, value) in [
        ("firstName", json!(7)),
        ("isOnboardingCompleted", json!("yes")),
        ("firstName", json!("x".repeat(256))),
        ("profilePicture", json!("x".repeat(256))),
    ] {
        let answer = patch(json!({ name: value })).await;
        let message = answer.failure(400, "VALIDATION_ERROR");
        assert!(message.contains(name), "{message}");
    }
}
