//! Accounts and clients.

use gateway::store::{EmailTaken, ProfileChange};
use shared::{Role, UserId};

use crate::harness::{Fixture, Kind, at, new_client};

crate::on_both!(
    a_client_registers_once_whatever_the_case,
    concurrent_registrations_have_one_winner,
    an_address_in_clients_is_taken,
    credentials_are_found_without_case,
    profiles_change_only_where_told,
    texts_of_every_script_are_kept,
);

async fn a_client_registers_once_whatever_the_case(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("Cleo@Example.com").await;
    assert_eq!(user.role, Role::User);
    assert_eq!(user.email, "Cleo@Example.com");
    assert_eq!(user.created_at, Some(at(0)));
    assert_eq!(
        fixture.store.user(user.id).await.unwrap(),
        Some(user.clone())
    );
    assert_eq!(fixture.store.user(UserId::new(999)).await.unwrap(), None);
    let again = fixture
        .store
        .register_client(&new_client("cLEO@example.com"))
        .await
        .unwrap();
    assert_eq!(again, Err(EmailTaken));
    let rows = "SELECT COUNT(*) FROM Clients WHERE country = 'Unknown' AND name = 'Cleo Ent' AND userId = 1";
    assert_eq!(fixture.database.number(rows).await, 1);
    let found = fixture
        .store
        .users(user.id, &[user.id, UserId::new(999)])
        .await
        .unwrap();
    assert_eq!(found, vec![user.clone()]);
    assert!(fixture.store.users(user.id, &[]).await.unwrap().is_empty());
    fixture.end().await;
}

async fn concurrent_registrations_have_one_winner(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let runs: Vec<_> = (0..8)
        .map(|index| {
            let store = fixture.store.clone();
            let email = if index % 2 == 0 { "a@b.c" } else { "A@B.C" };
            tokio::spawn(async move { store.register_client(&new_client(email)).await.unwrap() })
        })
        .collect();
    let mut made = 0;
    for run in runs {
        made += i32::from(run.await.unwrap().is_ok());
    }
    assert_eq!(made, 1);
    assert_eq!(
        fixture
            .database
            .number("SELECT COUNT(*) FROM Clients")
            .await,
        1
    );
    fixture.end().await;
}

async fn an_address_in_clients_is_taken(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    fixture
        .database
        .sql("INSERT INTO Clients (name, email, country) VALUES ('Old', 'Old@example.com', 'DE')")
        .await;
    let taken = fixture
        .store
        .register_client(&new_client("old@EXAMPLE.com"))
        .await
        .unwrap();
    assert_eq!(taken, Err(EmailTaken));
    assert_eq!(
        fixture.database.number("SELECT COUNT(*) FROM Users").await,
        0
    );
    fixture.end().await;
}

async fn credentials_are_found_without_case(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let agent = fixture.admin("Agent@Example.com").await;
    assert_eq!(agent.role, Role::Admin);
    let found = fixture
        .store
        .credentials("agent@example.COM")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.user, agent);
    assert_eq!(found.password_hash, "hash");
    let found = fixture
        .store
        .credentials_of(agent.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.user, agent);
    assert!(
        fixture
            .store
            .credentials("nobody@example.com")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        fixture
            .store
            .credentials_of(UserId::new(99))
            .await
            .unwrap()
            .is_none()
    );
    fixture.end().await;
}

async fn profiles_change_only_where_told(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("cleo@example.com").await;
    let change = ProfileChange {
        first_name: Some(Some("Chloé".to_owned())),
        company: Some(None),
        is_onboarding_completed: Some(true),
        ..ProfileChange::default()
    };
    let changed = fixture
        .store
        .update_profile(user.id, &change)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(changed.first_name.as_deref(), Some("Chloé"));
    assert_eq!(changed.last_name, user.last_name);
    assert_eq!(changed.company, None);
    assert!(changed.is_onboarding_completed);
    assert!(changed.updated_at > user.updated_at);
    let nobody = fixture
        .store
        .update_profile(UserId::new(99), &change)
        .await
        .unwrap();
    assert_eq!(nobody, None);
    fixture.end().await;
}

async fn texts_of_every_script_are_kept(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let mut account = new_client("weit@example.com");
    account.first_name = "名".repeat(90);
    account.last_name = "🦀".repeat(90);
    account.company = Some("ß".repeat(255));
    let user = fixture
        .store
        .register_client(&account)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(user.last_name.as_deref(), Some(account.last_name.as_str()));
    assert_eq!(user.company, account.company);
    fixture.end().await;
}
