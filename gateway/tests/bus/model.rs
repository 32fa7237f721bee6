//! The order a bus keeps, compared with a naive model of it over random publications.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};

use gateway::bus::{Publication, PublishOutcome};
use proptest::prelude::*;
use shared::envelope::Position;
use shared::{ConversationId, EventSeq};

use super::{House, at, envelope, outcome, user};

/// What the contract says, with nothing bounded: for each conversation its head, and those that wait.
#[derive(Default)]
struct Model(HashMap<ConversationId, (i64, BTreeSet<i64>)>);

impl Model {
    fn publish(
        &mut self,
        at: Position,
        begins_at: Option<i64>,
        heard: &mut Vec<Position>,
    ) -> PublishOutcome {
        let seq = at.event_seq.get();
        let begin = begins_at.map(|first| first - 1).or((seq == 1).then_some(0));
        if let (None, Some(begin)) = (self.0.get(&at.conversation), begin) {
            self.0.insert(at.conversation, (begin, BTreeSet::new()));
        }
        let Some((head, early)) = self.0.get_mut(&at.conversation) else {
            return PublishOutcome::UnknownHead;
        };
        let mut release = |head: &mut i64, early: &mut BTreeSet<i64>| {
            early.retain(|seq| seq > head);
            while early.remove(&(*head + 1)) {
                *head += 1;
                let event_seq = EventSeq::new(*head);
                heard.push(Position { event_seq, ..at });
            }
        };
        *head = (*head).max(begins_at.map_or(0, |first| first - 1));
        release(head, early);
        if seq <= *head {
            return PublishOutcome::Repeat;
        }
        early.insert(seq);
        release(head, early);
        if seq <= *head {
            PublishOutcome::Published
        } else {
            PublishOutcome::Parked
        }
    }
}

/// Publications: which conversation, which change, by which node, and the voucher.
fn publications() -> impl Strategy<Value = Vec<(i64, i64, usize, Option<i64>)>> {
    let voucher = proptest::option::weighted(0.2, 1_i64..12);
    proptest::collection::vec((0_i64..3, 1_i64..12, 0_usize..2, voucher), 1..60)
}

pub(crate) fn it_does_what_the_model_does(make: fn() -> House) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _guard = runtime.enter();
    let house = parking_lot::Mutex::new(make());
    let conversations = AtomicI64::new(1);
    runtime.block_on(house.lock().subscribe(&[user(1), user(2)]));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&publications(), |publications| {
        let mut house = house.lock();
        let base = conversations.fetch_add(3, Ordering::Relaxed);
        let mut model = Model::default();
        let mut expected = Vec::new();
        let (mut said, mut meant) = (Vec::new(), Vec::new());
        let heard = runtime.block_on(async {
            for (conversation, seq, node, begins_at) in publications {
                let at = at(base + conversation, seq);
                let publication = Publication {
                    begins_at: begins_at.map(EventSeq::new),
                    ..envelope(Some(at), &[user(1), user(2)])
                };
                let node = &house.nodes[node % house.nodes.len()];
                said.push(outcome(&**node, publication).await);
                meant.push(model.publish(at, begins_at, &mut expected));
            }
            house.heard().await
        });
        prop_assert_eq!(said, meant);
        prop_assert_eq!(heard, expected);
        Ok(())
    });
    outcome.expect("the model agrees");
}
