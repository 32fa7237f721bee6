//! What people tell of themselves: the bodies of the sign-in and profile calls, and the rules for what may stand in them.
//! Every rule keeps a value within its column, so that a wrong one is the caller's mistake and never the database's.

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::password::Passwords;
use crate::failure::Failure;
use crate::store::{NewClient, ProfileChange};

/// `VARCHAR(255)`: every text column of `Users`.
const USER_TEXT: usize = 255;

/// `VARCHAR(100)`: name, company and country in `Clients`. A company is kept in both tables, so the shorter one counts.
const CLIENT_TEXT: usize = 100;

/// RFC 5321, section 4.5.3.1.1: the longest name before the `@`, bytes.
const LOCAL_PART: usize = 64;

/// Where a refresh token travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RefreshIn {
    /// In the cookie that only the browser sees.
    #[default]
    Cookie,
    /// In the body, for a client that has no cookies.
    Body,
}

/// The body of `POST /auth/register`.
// Holds a password: it has no `Debug`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "email": "ann@example.com", "password": "eight or more", "firstName": "Ann", "lastName": "Lee",
}))]
#[expect(missing_docs, reason = "the names are those of the wire and say it")]
pub struct Registration {
    #[schema(format = "email", max_length = 255)]
    pub email: String,
    /// From 8 characters to 72 bytes in UTF-8.
    #[schema(format = "password", min_length = 8, max_length = 72)]
    pub password: String,
    #[schema(min_length = 1, max_length = 255)]
    pub first_name: String,
    #[schema(min_length = 1, max_length = 255)]
    pub last_name: String,
    #[serde(default)]
    #[schema(max_length = 100)]
    pub company: Option<String>,
    #[serde(default)]
    #[schema(max_length = 255)]
    pub phone: Option<String>,
    /// "Unknown" if not given.
    #[serde(default)]
    #[schema(max_length = 100)]
    pub country: Option<String>,
    /// Where the refresh token goes: `cookie` if not given.
    #[serde(default)]
    pub refresh_in: Option<RefreshIn>,
}

/// The body of `POST /auth/login`.
// Holds a password: it has no `Debug`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"email": "client@demo.test", "password": "demo-password"}))]
#[expect(missing_docs, reason = "the names are those of the wire and say it")]
pub struct Login {
    pub email: String,
    #[schema(format = "password")]
    pub password: String,
    /// Where the refresh token goes: `cookie` if not given.
    #[serde(default)]
    pub refresh_in: Option<RefreshIn>,
}

/// The body of `POST /auth/refresh`, where there is one.
// Holds a token: it has no `Debug`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({}))]
pub struct RefreshRequest {
    /// Without it, that of the cookie.
    #[serde(default)]
    pub refresh_token: Option<String>,
}

/// The body of `POST /auth/password`.
// Holds passwords: it has no `Debug`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"currentPassword": "demo-password", "newPassword": "demo-password"}))]
#[expect(missing_docs, reason = "the names are those of the wire and say it")]
pub struct PasswordChange {
    #[schema(format = "password")]
    pub current_password: String,
    /// From 8 characters to 72 bytes in UTF-8.
    #[schema(format = "password", min_length = 8, max_length = 72)]
    pub new_password: String,
}

/// The body of `PATCH /auth/me`: what is not there stays, null clears. Other members (`role`, `email`) change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(example = json!({"company": "Example Ltd", "phone": "+1 555 0100"}))]
#[expect(missing_docs, reason = "the names are those of the wire and say it")]
pub struct ProfilePatch {
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255)]
    pub first_name: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255)]
    pub last_name: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 100)]
    pub company: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255)]
    pub phone: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 255)]
    pub profile_picture: Option<Option<String>>,
    pub is_onboarding_completed: Option<bool>,
}

/// A new account's columns, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct NewAccount {
    pub email: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
}

impl NewAccount {
    /// Checks the address, and the names where they are given.
    pub fn new(
        email: &str,
        first_name: Option<&str>,
        last_name: Option<&str>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            email: address(email)?,
            first_name: optional("firstName", first_name, USER_TEXT)?,
            last_name: optional("lastName", last_name, USER_TEXT)?,
        })
    }
}

impl Registration {
    /// Everything but the password's hash, checked; the password is checked too.
    pub(super) fn check(&self, at: shared::Timestamp) -> Result<NewClient, Failure> {
        let account = NewClient {
            email: address(&self.email)?,
            password_hash: String::new(),
            first_name: required("firstName", &self.first_name, USER_TEXT)?,
            last_name: required("lastName", &self.last_name, USER_TEXT)?,
            company: optional("company", self.company.as_deref(), CLIENT_TEXT)?,
            phone: optional("phone", self.phone.as_deref(), USER_TEXT)?,
            country: optional("country", self.country.as_deref(), CLIENT_TEXT)?,
            at,
        };
        Passwords::check_new(&self.password)?;
        Ok(account)
    }
}

impl ProfilePatch {
    /// The change, checked.
    pub(super) fn check(self) -> Result<ProfileChange, Failure> {
        Ok(ProfileChange {
            first_name: change("firstName", self.first_name, USER_TEXT)?,
            last_name: change("lastName", self.last_name, USER_TEXT)?,
            company: change("company", self.company, CLIENT_TEXT)?,
            phone: change("phone", self.phone, USER_TEXT)?,
            profile_picture: change("profilePicture", self.profile_picture, USER_TEXT)?,
            is_onboarding_completed: self.is_onboarding_completed,
        })
    }
}

/// An address as a person types it: without outer white space.
pub(super) fn trimmed_address(email: &str) -> &str {
    email.trim()
}

/// Whether an account can have this address at all: the old system's addresses need no shape, only room in their column.
pub(super) fn is_storable_address(email: &str) -> bool {
    email.chars().count() <= USER_TEXT && !email.chars().any(char::is_control)
}

/// Whether a new account may have this address.
fn is_address(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    // ASCII only: databases differ in what else they take for equal, and an account must be one person's in all of them.
    let local_is_good = (1..=LOCAL_PART).contains(&local.len())
        && local
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\"(),:;<>@[\\]".contains(&byte));
    let domain_is_good = domain.contains('.')
        && domain.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
    email.len() <= USER_TEXT && local_is_good && domain_is_good
}

fn address(email: &str) -> Result<String, Failure> {
    let email = trimmed_address(email);
    if is_address(email) {
        Ok(email.to_owned())
    } else {
        Err(Failure::validation(
            "email must be an e-mail address of at most 255 characters",
        ))
    }
}

fn required(name: &'static str, value: &str, most: usize) -> Result<String, Failure> {
    optional(name, Some(value), most)?
        .ok_or_else(|| Failure::validation(format!("{name} must not be empty")))
}

/// Without outer white space; nothing left is as good as nothing given.
fn optional(
    name: &'static str,
    value: Option<&str>,
    most: usize,
) -> Result<Option<String>, Failure> {
    let value = value.map(str::trim).unwrap_or_default();
    if value.chars().count() > most {
        return Err(Failure::validation(format!(
            "{name} must not be longer than {most} characters"
        )));
    }
    if value.chars().any(char::is_control) {
        return Err(Failure::validation(format!(
            "{name} must not contain control characters"
        )));
    }
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// The outer `None` leaves a column as it is, the inner one clears it.
fn change(
    name: &'static str,
    value: Option<Option<String>>,
    most: usize,
) -> Result<Option<Option<String>>, Failure> {
    value
        .map(|value| optional(name, value.as_deref(), most))
        .transpose()
}

/// Tells null from not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::{ErrorCode, Timestamp};

    use super::*;

    fn registration(changes: &Value) -> Result<NewClient, Failure> {
        let mut body = json!({
            "email": "ann@example.com", "password": "long enough", "firstName": "Ann", "lastName": "Lee",
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        serde_json::from_value::<Registration>(body)
            .unwrap()
            .check(Timestamp::now())
    }

    #[test]
    fn addresses_have_a_shape() {
        for good in [
            "a@b.co",
            "Ann.Lee+x@Sub.Example.com",
            "o'neil_1@ex-ample.org",
            &format!("{}@example.com", "a".repeat(64)),
        ] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "ann",
            "@example.com",
            "ann@",
            "ann@example",
            "ann@.com",
            "ann@example..com",
            "ann@-example.com",
            "a b@example.com",
            "a@b@example.com",
            "ann@exa mple.com",
            "ann\0@example.com",
            "\u{e4}nn@example.com",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("a@{}.com", "b".repeat(250)),
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_registration_is_taken_as_it_is_but_for_outer_white_space() {
        let account = registration(&json!({
            "email": " Ann@Example.com ", "firstName": " Ann ", "company": "  ", "phone": null, "country": "Chile",
        }))
        .unwrap();
        assert_eq!(account.email, "Ann@Example.com");
        assert_eq!(account.first_name, "Ann");
        assert_eq!(account.company, None);
        assert_eq!(account.phone, None);
        assert_eq!(account.country.as_deref(), Some("Chile"));
    }

    #[test]
    fn what_no_column_holds_is_the_callers_mistake() {
        assert!(registration(&json!({"firstName": "ä".repeat(255)})).is_ok());
        for (name, value) in [
            ("firstName", "ä".repeat(256)),
            ("firstName", "  ".into()),
            ("lastName", String::new()),
            ("lastName", "a\nb".into()),
            ("company", "c".repeat(101)),
            ("country", "c".repeat(101)),
            ("phone", "1".repeat(256)),
            ("email", "nobody".into()),
            ("password", "short".into()),
        ] {
            let Err(failure) = registration(&json!({name: value})) else {
                panic!("{name} was taken");
            };
            assert_eq!(failure.code, ErrorCode::ValidationError);
            assert!(failure.message.contains(name), "{failure}");
        }
    }

    #[test]
    fn a_patch_tells_null_from_not_there() {
        let patch = |body: Value| {
            serde_json::from_value::<ProfilePatch>(body)
                .unwrap()
                .check()
        };
        let change = patch(json!({"company": null, "phone": " 1 ", "role": "admin"})).unwrap();
        assert_eq!(change.company, Some(None));
        assert_eq!(change.phone, Some(Some("1".into())));
        assert_eq!(change.first_name, None);
        assert_eq!(patch(json!({})).unwrap(), ProfileChange::default());
        assert!(patch(json!({"profilePicture": "x".repeat(256)})).is_err());
    }

    #[test]
    fn where_the_refresh_token_travels_is_one_of_two() {
        assert_eq!(
            serde_json::from_str::<RefreshIn>("\"body\"").unwrap(),
            RefreshIn::Body
        );
        assert!(serde_json::from_str::<RefreshIn>("\"header\"").is_err());
    }
}
