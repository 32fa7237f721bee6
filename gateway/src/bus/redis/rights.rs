//! Whether a connection may do all that a node does. A user of Redis with too few rights could go on for long otherwise: the
//! node would be ready, and what it has to publish would lie in its outbox.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};

use super::commands::Commands;

/// What the node asks by itself, beside the scripts: `rights.lua` has these, too, or `check` asks them.
#[cfg(test)]
const DIRECT: &[&str] = &["HSCAN", "SSCAN"];

/// Does everything once, on keys that are gone afterwards; an error names what is not allowed.
pub(super) async fn check(
    commands: &Commands,
    connection: &mut MultiplexedConnection,
) -> RedisResult<()> {
    // A name of its own for each call: two nodes at once must not meet.
    let name =
        |kind: &str| commands.name(format_args!("rights:{:016x}:{kind}", rand::random::<u64>()));
    let script = Script::new(include_str!("rights.lua"));
    let mut call = script.prepare_invoke();
    for kind in ["hash", "sorted", "set", "stream", "text"] {
        call.key(name(kind));
    }
    call.arg(commands.channel("rights"));
    let _: u64 = call.invoke_async(connection).await?;
    connection.unsubscribe(commands.channel("rights")).await?;
    // The pool asks these two before it lends a connection; and what is kept is read in a transaction.
    let mut lent = redis::pipe();
    lent.atomic().cmd("UNWATCH").ignore().cmd("PING").ignore();
    lent.query_async(connection).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn called(script: &str) -> BTreeSet<&str> {
        ["redis.call('", "redis.pcall('", "try('"]
            .into_iter()
            .flat_map(|call| script.split(call).skip(1))
            .filter_map(|rest| rest.split('\'').next())
            .collect()
    }

    #[test]
    fn it_does_what_the_scripts_do_and_nothing_else() {
        let scripts = [
            include_str!("../publish.lua"),
            include_str!("../../cluster/redis/arrive.lua"),
            include_str!("../../cluster/redis/depart.lua"),
            include_str!("../../cluster/redis/states.lua"),
            include_str!("../../cluster/redis/states_change.lua"),
            include_str!("../../cluster/redis/states_open.lua"),
            include_str!("../../cluster/redis/sweep.lua"),
            include_str!("../../cluster/redis/take.lua"),
        ];
        let mut wanted: BTreeSet<&str> = scripts.into_iter().flat_map(called).collect();
        wanted.extend(DIRECT);
        assert_eq!(called(include_str!("rights.lua")), wanted);
    }
}
