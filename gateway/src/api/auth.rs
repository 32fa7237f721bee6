//! Calls on accounts: registering, signing in and out, refreshing, passwords, profiles. The rules are `auth`'s; here is how
//! tokens travel: in the body, or in the cookie that scripts and other sites don't get.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::model::User;
use utoipa::ToSchema;

use super::Inner;
use super::envelope::Data;
use super::extract::{Body, Caller, ClientAddress, REFRESH_COOKIE, RefreshCookie};
use super::openapi::{Success, failures};
use crate::auth::{
    AuthService, IssuedRefresh, Login, PasswordChange, ProfilePatch, RefreshIn, RefreshRequest,
    Registration, SignedIn,
};
use crate::config::AppEnv;
use crate::failure::Failure;

/// A session that begins.
// Holds tokens: it has no `Debug`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    /// The access token.
    token: String,
    /// How long it is good, seconds.
    expires_in: u64,
    user: User,
    /// Only where `refreshIn` was `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    refresh_token: Option<String>,
}

/// A session that goes on.
// Holds tokens: it has no `Debug`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FreshToken {
    /// The access token.
    token: String,
    /// How long it is good, seconds.
    expires_in: u64,
    /// The next refresh token, only where the one spent came in the body, and not to a second tab.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    refresh_token: Option<String>,
}

/// Somebody's own account.
#[derive(Serialize, ToSchema)]
pub(super) struct Profile {
    user: User,
}

failures!(RegisterFailures: BODY, EmailTaken);

/// Make a client's account and sign in
#[utoipa::path(
    post,
    path = "/api/auth/register",
    tag = "accounts",
    request_body = Registration,
    responses(
        (status = 201, description = "Registered and signed in", body = Success<Session>,
            headers(("Set-Cookie" = String, description = "The refresh token, unless `refreshIn` is `body`"))),
        RegisterFailures,
    ),
)]
pub(super) async fn register(
    State(inner): State<Inner>,
    Body(registration): Body<Registration>,
) -> Result<Response, Failure> {
    let signed_in = inner.auth.register(&registration).await?;
    Ok((StatusCode::CREATED, session(signed_in, inner.mode)?).into_response())
}

failures!(LoginFailures: BODY, InvalidCredentials, RateLimited);

/// Sign in
#[utoipa::path(
    post,
    path = "/api/auth/login",
    tag = "accounts",
    request_body = Login,
    responses(
        (status = 200, description = "Signed in", body = Success<Session>,
            headers(("Set-Cookie" = String, description = "The refresh token, unless `refreshIn` is `body`"))),
        LoginFailures,
    ),
)]
pub(super) async fn login(
    State(inner): State<Inner>,
    ClientAddress(address): ClientAddress,
    Body(login): Body<Login>,
) -> Result<Response, Failure> {
    let signed_in = inner.auth.login(&login, address).await?;
    session(signed_in, inner.mode)
}

failures!(RefreshFailures: BODY, MissingToken, InvalidToken);

/// Spend a refresh token for an access token and the next refresh token
///
/// A token spent less than 10 seconds ago (another tab's) is answered with an access token only; one spent longer ago ends
/// its whole session.
#[utoipa::path(
    post,
    path = "/api/auth/refresh",
    tag = "accounts",
    security(("refreshCookie" = []), ()),
    request_body = Option<RefreshRequest>,
    responses(
        (status = 200, description = "The session goes on", body = Success<FreshToken>,
            headers(("Set-Cookie" = String, description = "The next refresh token, where the cookie brought the last"))),
        RefreshFailures,
    ),
)]
pub(super) async fn refresh(
    State(inner): State<Inner>,
    RefreshCookie(cookie): RefreshCookie,
    Body(request): Body<RefreshRequest>,
) -> Result<Response, Failure> {
    // The next token travels as the last one did.
    let in_body = request.refresh_token.filter(|token| !token.is_empty());
    let refresh_in = if in_body.is_some() {
        RefreshIn::Body
    } else {
        RefreshIn::Cookie
    };
    let refreshed = inner.auth.refresh(in_body.or(cookie).as_deref()).await?;
    let (refresh_token, cookie) = match refreshed.refresh {
        Some(refresh) => carry(&refresh, refresh_in, inner.mode)?,
        None => (None, None),
    };
    let data = FreshToken {
        token: refreshed.token,
        expires_in: refreshed.expires_in,
        refresh_token,
    };
    Ok(with_cookie(Data(data), cookie))
}

failures!(LogoutFailures: BEARER);

/// Sign out: end the token's session with its refresh tokens, its access tokens and its sockets
#[utoipa::path(
    post,
    path = "/api/auth/logout",
    tag = "accounts",
    security(("bearer" = [])),
    responses((status = 204, description = "Signed out"), LogoutFailures),
)]
pub(super) async fn logout(
    State(inner): State<Inner>,
    Caller(identity): Caller,
) -> Result<Response, Failure> {
    inner.auth.logout(&identity).await?;
    let gone = set_cookie("", 0, inner.mode)?;
    Ok(with_cookie(StatusCode::NO_CONTENT, Some(gone)))
}

failures!(ShowFailures: BEARER, UserNotFound);

/// One's own account
#[utoipa::path(
    get,
    path = "/api/auth/me",
    operation_id = "show_profile",
    tag = "accounts",
    security(("bearer" = [])),
    responses((status = 200, description = "The account", body = Success<Profile>), ShowFailures),
)]
pub(super) async fn show(
    State(auth): State<Arc<AuthService>>,
    Caller(identity): Caller,
) -> Result<Data<Profile>, Failure> {
    Ok(Data(Profile {
        user: auth.profile(&identity).await?,
    }))
}

failures!(UpdateFailures: BEARER | BODY, UserNotFound);

/// Change one's own account
///
/// What is left out stays as it is; null clears it. What can't be changed (`role`, `email`) is passed over.
#[utoipa::path(
    patch,
    path = "/api/auth/me",
    operation_id = "update_profile",
    tag = "accounts",
    security(("bearer" = [])),
    request_body = ProfilePatch,
    responses((status = 200, description = "The account as it is now", body = Success<Profile>), UpdateFailures),
)]
pub(super) async fn update(
    State(auth): State<Arc<AuthService>>,
    Caller(identity): Caller,
    Body(patch): Body<ProfilePatch>,
) -> Result<Data<Profile>, Failure> {
    Ok(Data(Profile {
        user: auth.update_profile(&identity, patch).await?,
    }))
}

failures!(PasswordFailures: BEARER | BODY, InvalidCredentials, UserNotFound);

/// Set a new password and end every other session of the account
#[utoipa::path(
    post,
    path = "/api/auth/password",
    tag = "accounts",
    security(("bearer" = [])),
    request_body = PasswordChange,
    responses((status = 204, description = "Changed"), PasswordFailures),
)]
pub(super) async fn change_password(
    State(auth): State<Arc<AuthService>>,
    Caller(identity): Caller,
    Body(change): Body<PasswordChange>,
) -> Result<StatusCode, Failure> {
    auth.change_password(&identity, &change).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn session(signed_in: SignedIn, mode: AppEnv) -> Result<Response, Failure> {
    let SignedIn {
        token,
        expires_in,
        user,
        refresh,
        refresh_in,
    } = signed_in;
    let (refresh_token, cookie) = carry(&refresh, refresh_in, mode)?;
    Ok(with_cookie(
        Data(Session {
            token,
            expires_in,
            user,
            refresh_token,
        }),
        cookie,
    ))
}

/// A refresh token on its way out: for the body, or as a cookie.
fn carry(
    refresh: &IssuedRefresh,
    refresh_in: RefreshIn,
    mode: AppEnv,
) -> Result<(Option<String>, Option<HeaderValue>), Failure> {
    let token = refresh.token.expose();
    Ok(match refresh_in {
        RefreshIn::Body => (Some(token.to_owned()), None),
        RefreshIn::Cookie => (None, Some(set_cookie(token, refresh.life.as_secs(), mode)?)),
    })
}

/// The cookie is for the calls under its path only, and neither for scripts nor for requests that other sites make. A life
/// of 0 seconds takes it away.
fn set_cookie(value: &str, life_seconds: u64, mode: AppEnv) -> Result<HeaderValue, Failure> {
    let secure = match mode {
        AppEnv::Development => "",
        AppEnv::Production => "; Secure",
    };
    let cookie = format!(
        "{REFRESH_COOKIE}={value}; Path=/api/auth; Max-Age={life_seconds}; HttpOnly; SameSite=Strict{secure}"
    );
    let mut cookie = HeaderValue::try_from(cookie)
        .map_err(|_| Failure::internal("a token that fits no header"))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

fn with_cookie(answer: impl IntoResponse, cookie: Option<HeaderValue>) -> Response {
    let mut response = answer.into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}
