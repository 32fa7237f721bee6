//! Who somebody is: their role, and which side of a conversation they write for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// One of the company's clients.
    User,
    /// One of the agency's staff.
    Admin,
}

impl Role {
    /// The name in tokens, payloads, the database and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The side this role writes for.
    pub const fn side(self) -> SenderType {
        match self {
            Self::User => SenderType::Client,
            Self::Admin => SenderType::Agency,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which side of a conversation wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SenderType {
    /// The client.
    Client,
    /// The agency.
    Agency,
}

impl SenderType {
    /// The name in payloads, the database and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Agency => "agency",
        }
    }

    /// The side that reads what this one writes.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Agency,
            Self::Agency => Self::Client,
        }
    }
}
