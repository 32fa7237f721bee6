//! Who somebody is: passwords, access tokens, sessions of rotating refresh tokens, and what ends them before their time.
//! What somebody may do in a conversation is `chat`'s; cookies, headers and bodies are `api`'s.

mod access_token;
mod account;
mod limits;
mod password;
mod refresh_token;
mod revocations;
mod sessions;

pub use access_token::{ACCESS_TOKEN_LIFE, AccessTokens, Identity, bearer, key_id};
pub use account::{
    Login, NewAccount, PasswordChange, ProfilePatch, RefreshIn, RefreshRequest, Registration,
};
pub use password::Passwords;
pub use revocations::Revocations;
pub use sessions::{AuthParts, AuthService, IssuedRefresh, Refreshed, SignedIn, create_admin};
