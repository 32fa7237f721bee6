//! Who may do what in the chat, and nothing else.

use shared::{ErrorCode, Role, UserId};

use crate::failure::Failure;
use crate::store::{NewMessage, Parties, Rejection, Viewer};

/// Whether somebody may see a conversation: an admin any, a client its own.
pub(super) fn may_view(viewer: Viewer, parties: Parties) -> Result<(), Failure> {
    match viewer.role {
        Role::Admin => Ok(()),
        Role::User if parties.client_user == Some(viewer.user) => Ok(()),
        Role::User => Err(not_yours()),
    }
}

/// Whether a message may be stored, and who receives it. Asked while the conversation is locked.
pub(super) fn admit(message: &NewMessage, parties: &Parties) -> Result<UserId, Rejection> {
    match message.role {
        Role::User if parties.client_user != Some(message.sender) => {
            Err(Rejection::NotAParticipant)
        }
        Role::User if !parties.client_active => Err(Rejection::ClientInactive),
        Role::User => Ok(parties.agency),
        Role::Admin => parties.client_user.ok_or(Rejection::ClientHasNoAccount),
    }
}

/// What only clients may do.
pub(super) fn only_clients(viewer: Viewer) -> Result<(), Failure> {
    match viewer.role {
        Role::User => Ok(()),
        Role::Admin => Err(Failure::forbidden("only clients open conversations")),
    }
}

/// What only admins may do.
pub(super) fn only_admins(viewer: Viewer) -> Result<(), Failure> {
    match viewer.role {
        Role::Admin => Ok(()),
        Role::User => Err(Failure::forbidden("only agency staff may do this")),
    }
}

/// There is no such conversation.
pub(super) fn no_conversation() -> Failure {
    Failure::new(
        ErrorCode::ConversationNotFound,
        "there is no such conversation",
    )
}

/// The client may read, not write.
pub(super) fn client_inactive() -> Failure {
    Failure::forbidden("this client is inactive: it may read, not write")
}

fn not_yours() -> Failure {
    Failure::forbidden("this conversation is another client's")
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::ConversationNotFound => no_conversation(),
            Rejection::NotAParticipant => not_yours(),
            Rejection::ClientInactive => client_inactive(),
            Rejection::ClientHasNoAccount => Self::new(
                ErrorCode::ClientHasNoAccount,
                "this client has no account to receive messages",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::{ConversationId, Timestamp};

    use super::*;

    const CLIENT: UserId = UserId::new(1);
    const AGENT: UserId = UserId::new(2);

    fn parties(client_user: Option<UserId>, client_active: bool) -> Parties {
        Parties {
            agency: AGENT,
            client_user,
            client_active,
        }
    }

    fn message(sender: i64, role: Role) -> NewMessage {
        NewMessage {
            conversation: ConversationId::new(1),
            sender: UserId::new(sender),
            role,
            content: "hello".to_owned(),
            client_message_id: None,
            at: Timestamp::now(),
        }
    }

    #[test]
    fn a_client_writes_to_its_agent_while_active() {
        assert_eq!(
            admit(&message(1, Role::User), &parties(Some(CLIENT), true)),
            Ok(AGENT)
        );
        assert_eq!(
            admit(&message(1, Role::User), &parties(Some(CLIENT), false)),
            Err(Rejection::ClientInactive)
        );
        assert_eq!(
            admit(&message(9, Role::User), &parties(Some(CLIENT), true)),
            Err(Rejection::NotAParticipant)
        );
        assert_eq!(
            admit(&message(1, Role::User), &parties(None, true)),
            Err(Rejection::NotAParticipant)
        );
    }

    #[test]
    fn any_admin_writes_to_the_clients_account() {
        for admin in [2, 7] {
            assert_eq!(
                admit(&message(admin, Role::Admin), &parties(Some(CLIENT), false)),
                Ok(CLIENT)
            );
            assert_eq!(
                admit(&message(admin, Role::Admin), &parties(None, true)),
                Err(Rejection::ClientHasNoAccount)
            );
        }
    }

    #[test]
    fn a_client_sees_its_own_conversations_only() {
        let viewer = |user, role| Viewer {
            user: UserId::new(user),
            role,
        };
        assert!(may_view(viewer(1, Role::User), parties(Some(CLIENT), true)).is_ok());
        assert!(may_view(viewer(9, Role::User), parties(Some(CLIENT), true)).is_err());
        assert!(may_view(viewer(9, Role::User), parties(None, true)).is_err());
        assert!(may_view(viewer(9, Role::Admin), parties(None, true)).is_ok());
    }
}
