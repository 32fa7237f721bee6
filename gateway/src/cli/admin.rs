//! `gateway create-admin`. What makes an account good is `auth`'s to say.

use std::io::{self, Read};

use clap::Args;
use shared::model::User;

use crate::auth::{self, NewAccount, Passwords};
use crate::config::Secret;
use crate::failure::Failure;
use crate::store::Accounts;

/// Far more than any password; what goes on after it is not read.
const MAX_INPUT_BYTES: u64 = 4096;

/// The arguments of `create-admin`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AdminArgs {
    /// The e-mail address to sign in with
    #[arg(long)]
    pub email: String,
    /// Read the password from the standard input: arguments can be seen by everybody on the machine
    #[arg(long, required = true)]
    pub password_stdin: bool,
    /// The first name
    #[arg(long)]
    pub first_name: Option<String>,
    /// The last name
    #[arg(long)]
    pub last_name: Option<String>,
}

/// Reads a password: all of the input, but for the line end that `echo` and a keyboard add.
pub fn read_password(input: impl Read) -> io::Result<Secret> {
    let mut text = String::new();
    input.take(MAX_INPUT_BYTES).read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(line.strip_suffix('\r').unwrap_or(line)))
}

/// Makes the account. `VALIDATION_ERROR`, `EMAIL_TAKEN`.
pub async fn create_admin(
    accounts: &dyn Accounts,
    arguments: &AdminArgs,
    password: &Secret,
) -> Result<User, Failure> {
    let account = NewAccount::new(
        &arguments.email,
        arguments.first_name.as_deref(),
        arguments.last_name.as_deref(),
    )?;
    auth::create_admin(accounts, &Passwords::default(), account, password.expose()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_a_password() {
        for (input, password) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret \n\n", "secret \n"),
            ("", ""),
        ] {
            assert_eq!(read_password(input.as_bytes()).unwrap().expose(), password);
        }
        assert!(read_password(&b"\xff\xfe"[..]).is_err());
        let endless = io::repeat(b'a');
        assert_eq!(read_password(endless).unwrap().expose().len(), 4096);
    }
}
