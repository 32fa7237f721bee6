//! An address that leads to a Redis through a cable of the test's own: it can be cut, hang, and lead elsewhere.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::redis_server::RedisServer;

/// The address. Its connections end with it.
pub(crate) struct Address {
    port: u16,
    cable: watch::Sender<Cable>,
}

#[derive(Debug, Clone, Copy)]
struct Cable {
    leads_to: u16,
    whole: bool,
    /// Connections made before the last of this many hangs pass nothing on any more.
    hangs: u64,
}

impl Address {
    pub(crate) async fn of(redis: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let cable = watch::Sender::new(Cable {
            leads_to: redis.port(),
            whole: true,
            hangs: 0,
        });
        let lying = cable.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, lying.clone()));
            }
        });
        Self { port, cable }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// New connections lead to another Redis. Those there are stay.
    pub(crate) fn lead_to(&self, redis: &RedisServer) {
        self.cable
            .send_modify(|cable| cable.leads_to = redis.port());
    }

    /// Ends every connection, and takes no new one.
    pub(crate) fn cut(&self) {
        self.cable.send_modify(|cable| cable.whole = false);
    }

    /// Takes new ones again.
    pub(crate) fn mend(&self) {
        self.cable.send_modify(|cable| cable.whole = true);
    }

    /// Every connection there is stays open and carries nothing any more. New ones are well.
    pub(crate) fn hang(&self) {
        self.cable.send_modify(|cable| cable.hangs += 1);
    }
}

async fn carry(mut client: TcpStream, mut cable: watch::Receiver<Cable>) {
    let begun = *cable.borrow();
    let mut watching = cable.clone();
    let carried = async {
        if let Ok(mut server) = TcpStream::connect(("127.0.0.1", begun.leads_to)).await {
            let hangs = {
                let copied = tokio::io::copy_bidirectional(&mut client, &mut server);
                let hangs = watching.wait_for(|now| now.hangs > begun.hangs);
                tokio::select! {
                    _ = copied => false,
                    hangs = hangs => hangs.is_ok(),
                }
            };
            if hangs {
                // Held open until the cable is cut.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = carried => {}
        _ = cable.wait_for(|now| !now.whole) => {}
    }
}
