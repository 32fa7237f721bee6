//! Sessions, refresh tokens and revocations.

use gateway::store::{NewSession, RefreshRotation, RotationOutcome, TokenHash};
use shared::UserId;
use shared::envelope::{Revocation, RevocationScope};

use crate::harness::{Fixture, Kind, at};

crate::on_both!(
    a_token_is_spent_once_and_graced_shortly,
    concurrent_rotations_have_one_winner,
    an_ended_session_is_unknown,
    a_new_password_ends_the_others,
    pruning_leaves_what_lives,
);

const HOUR: i64 = 3600;

fn rotation(spent: TokenHash, fresh: TokenHash, seconds: i64) -> RefreshRotation {
    RefreshRotation {
        spent,
        fresh,
        at: at(seconds),
        grace_ms: 10_000,
        expires_at: at(seconds + 24 * HOUR),
    }
}

async fn begin(fixture: &Fixture, user: UserId, id: &str, hash: TokenHash) {
    let session = NewSession {
        id: id.to_owned(),
        user,
        refresh_hash: hash,
        at: at(0),
        expires_at: at(24 * HOUR),
    };
    fixture.store.begin_session(&session).await.unwrap();
}

async fn a_token_is_spent_once_and_graced_shortly(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("a@b.c").await.id;
    begin(&fixture, user, "s1", [1; 32]).await;
    let rotate = |spent, fresh, seconds| {
        let store = fixture.store.clone();
        async move {
            store
                .rotate_refresh(&rotation(spent, fresh, seconds))
                .await
                .unwrap()
        }
    };
    match rotate([1; 32], [2; 32], 5).await {
        RotationOutcome::Rotated {
            user: whose,
            session_id,
        } => {
            assert_eq!((whose.id, session_id.as_str()), (user, "s1"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        rotate([1; 32], [3; 32], 15).await,
        RotationOutcome::Grace { .. }
    ));
    // The grace gave no token.
    assert!(matches!(
        rotate([3; 32], [4; 32], 15).await,
        RotationOutcome::Unknown
    ));
    assert!(matches!(
        rotate([2; 32], [5; 32], 15).await,
        RotationOutcome::Rotated { .. }
    ));
    let revocation = match rotate([1; 32], [6; 32], 16).await {
        RotationOutcome::Reused(revocation) => revocation,
        other => panic!("{other:?}"),
    };
    assert_eq!(revocation.scope, RevocationScope::Session("s1".to_owned()));
    assert_eq!(
        (revocation.user, revocation.at),
        (user, at(16).unix_millis())
    );
    // The whole family is gone.
    assert!(matches!(
        rotate([5; 32], [7; 32], 17).await,
        RotationOutcome::Unknown
    ));
    assert_eq!(
        fixture.store.revocations_since(at(16)).await.unwrap(),
        vec![revocation]
    );
    assert!(
        fixture
            .store
            .revocations_since(at(17))
            .await
            .unwrap()
            .is_empty()
    );
    fixture.end().await;
}

async fn concurrent_rotations_have_one_winner(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("a@b.c").await.id;
    begin(&fixture, user, "s1", [1; 32]).await;
    let runs: Vec<_> = (2..10_u8)
        .map(|index| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                let rotation = rotation([1; 32], [index; 32], 5);
                store.rotate_refresh(&rotation).await.unwrap()
            })
        })
        .collect();
    let (mut rotated, mut graced) = (0, 0);
    for run in runs {
        match run.await.unwrap() {
            RotationOutcome::Rotated { .. } => rotated += 1,
            RotationOutcome::Grace { .. } => graced += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((rotated, graced), (1, 7));
    fixture.end().await;
}

async fn an_ended_session_is_unknown(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("a@b.c").await.id;
    begin(&fixture, user, "s1", [1; 32]).await;
    begin(&fixture, user, "s2", [2; 32]).await;
    // Another's session is none of the caller's.
    fixture
        .store
        .end_session("s1", UserId::new(99), at(1))
        .await
        .unwrap();
    fixture.store.end_session("s1", user, at(2)).await.unwrap();
    fixture.store.end_session("s1", user, at(3)).await.unwrap();
    fixture
        .store
        .end_session("none", user, at(3))
        .await
        .unwrap();
    let revocations = fixture.store.revocations_since(at(0)).await.unwrap();
    assert_eq!(revocations.len(), 1);
    let outcome = fixture
        .store
        .rotate_refresh(&rotation([1; 32], [3; 32], 4))
        .await
        .unwrap();
    assert!(matches!(outcome, RotationOutcome::Unknown));
    let outcome = fixture
        .store
        .rotate_refresh(&rotation([2; 32], [4; 32], 4))
        .await
        .unwrap();
    assert!(matches!(outcome, RotationOutcome::Rotated { .. }));
    // One that expired by itself is unknown too.
    let late = rotation([4; 32], [5; 32], 30 * HOUR);
    let outcome = fixture.store.rotate_refresh(&late).await.unwrap();
    assert!(matches!(outcome, RotationOutcome::Unknown));
    fixture.end().await;
}

async fn a_new_password_ends_the_others(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("a@b.c").await.id;
    for (id, hash) in [("s1", 1), ("s2", 2), ("s3", 3)] {
        begin(&fixture, user, id, [hash; 32]).await;
    }
    fixture
        .store
        .change_password(user, "new", Some("s2"), at(5))
        .await
        .unwrap();
    let found = fixture.store.credentials_of(user).await.unwrap().unwrap();
    assert_eq!(found.password_hash, "new");
    for (hash, lives) in [(1, false), (2, true), (3, false)] {
        let rotation = rotation([hash; 32], [hash + 10; 32], 6);
        let outcome = fixture.store.rotate_refresh(&rotation).await.unwrap();
        assert_eq!(
            matches!(outcome, RotationOutcome::Rotated { .. }),
            lives,
            "{hash}"
        );
    }
    let expected = Revocation {
        user,
        scope: RevocationScope::AllBut(Some("s2".to_owned())),
        at: at(5).unix_millis(),
    };
    assert_eq!(
        fixture.store.revocations_since(at(0)).await.unwrap(),
        vec![expected]
    );
    fixture
        .store
        .change_password(user, "newer", None, at(7))
        .await
        .unwrap();
    let outcome = fixture
        .store
        .rotate_refresh(&rotation([12; 32], [22; 32], 8))
        .await
        .unwrap();
    assert!(matches!(outcome, RotationOutcome::Unknown));
    fixture.end().await;
}

async fn pruning_leaves_what_lives(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let user = fixture.client("a@b.c").await.id;
    begin(&fixture, user, "old", [1; 32]).await;
    let session = NewSession {
        id: "young".to_owned(),
        user,
        refresh_hash: [2; 32],
        at: at(0),
        expires_at: at(50 * HOUR),
    };
    fixture.store.begin_session(&session).await.unwrap();
    for (hash, seconds) in [("aa", 0), ("bb", 29 * HOUR + 1800)] {
        let revocation = Revocation {
            user,
            scope: RevocationScope::Token(hash.to_owned()),
            at: at(seconds).unix_millis(),
        };
        fixture.store.revoke(&revocation).await.unwrap();
    }
    // A session, its token, a revocation.
    assert_eq!(
        fixture.store.prune_sessions(at(30 * HOUR)).await.unwrap(),
        3
    );
    assert_eq!(
        fixture.store.prune_sessions(at(30 * HOUR)).await.unwrap(),
        0
    );
    let left = fixture.store.revocations_since(at(0)).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].scope, RevocationScope::Token("bb".to_owned()));
    let late = rotation([2; 32], [3; 32], 30 * HOUR);
    let outcome = fixture.store.rotate_refresh(&late).await.unwrap();
    assert!(matches!(outcome, RotationOutcome::Rotated { .. }));
    fixture.end().await;
}
