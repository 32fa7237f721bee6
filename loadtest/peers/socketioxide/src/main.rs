//! The same chat on socketioxide, sqlx and MySQL, with socketioxide's Redis adapter where there is more than one process.
//! Only what the load generator measures: connecting with a token, joining, messages, notifications, signs of writing.
//! Written as a competent team would, with the library's defaults.
//!
//! PORT, DATABASE_URL, JWT_SECRET, and REDIS_URL for several processes.

mod store;

use std::env::var;
use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{AckSender, Data, Extension, SocketRef, State};
use socketioxide::handler::ConnectHandler;
use socketioxide::layer::SocketIoLayer;
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};
use store::{Conversation, Failure, Store};
use tokio::net::TcpSocket;

type Fault = Box<dyn Error + Send + Sync>;

/// Who holds a socket.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    id: i32,
    email: String,
    role: String,
}

#[derive(Clone)]
struct Tokens {
    key: Arc<DecodingKey>,
    validation: Arc<Validation>,
}

#[derive(Deserialize)]
struct Auth {
    token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Join {
    conversation_id: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SendMessage {
    conversation_id: i32,
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typing {
    conversation_id: i32,
    is_typing: bool,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let store = Store::connect(&var("DATABASE_URL")?).await?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    let tokens = Tokens {
        key: Arc::new(DecodingKey::from_secret(var("JWT_SECRET")?.as_bytes())),
        validation: Arc::new(validation),
    };
    let builder = SocketIo::builder().with_state(store).with_state(tokens);
    if let Ok(url) = var("REDIS_URL") {
        let client = redis::Client::open(format!("{}?protocol=resp3", url.trim_end_matches('/')))?;
        let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
        let (layer, io) = builder
            .with_adapter::<RedisAdapter<_>>(adapter)
            .build_layer();
        io.ns("/", connected.with(authenticated)).await?;
        serve(layer).await
    } else {
        let (layer, io) = builder.build_layer();
        io.ns("/", connected.with(authenticated));
        serve(layer).await
    }
}

async fn serve<A: Adapter>(layer: SocketIoLayer<A>) -> Result<(), Fault> {
    let app = Router::new()
        .route("/healthz", get(async || "ok"))
        .layer(layer);
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(format!("127.0.0.1:{}", var("PORT")?).parse()?)?;
    let listener = socket.listen(4096)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

async fn authenticated<A: Adapter>(
    socket: SocketRef<A>,
    Data(auth): Data<Auth>,
    State(tokens): State<Tokens>,
) -> Result<(), jsonwebtoken::errors::Error> {
    let token = jsonwebtoken::decode::<User>(&auth.token, &tokens.key, &tokens.validation)?;
    socket.extensions.insert(token.claims);
    Ok(())
}

async fn connected<A: Adapter>(socket: SocketRef<A>, Extension(user): Extension<User>) {
    socket.join([user_room(user.id), user.role.clone()]);
    socket.on("joinConversation", join::<A>);
    socket.on("chatMessage", chat_message::<A>);
    socket.on("typing", typing::<A>);
    socket.on_disconnect(
        async |socket: SocketRef<A>, Extension(user): Extension<User>| {
            tell_staff(&socket, "userOffline", &user).await;
        },
    );
    tell_staff(&socket, "userOnline", &user).await;
}

async fn tell_staff<A: Adapter>(socket: &SocketRef<A>, event: &str, user: &User) {
    let sign = json!({ "userId": user.id, "role": user.role, "at": store::now() });
    let _ = socket.to("admin").emit(event, &sign).await;
}

async fn join<A: Adapter>(
    socket: SocketRef<A>,
    Data(Join { conversation_id }): Data<Join>,
    ack: AckSender<A>,
    Extension(user): Extension<User>,
    State(store): State<Store>,
) {
    let joined = store.conversation(conversation_id, &user).await;
    if joined.is_ok() {
        socket.join(conversation_room(conversation_id));
    }
    answer("joinConversation", &socket, ack, joined.as_deref());
}

async fn chat_message<A: Adapter>(
    socket: SocketRef<A>,
    Data(SendMessage {
        conversation_id,
        message,
    }): Data<SendMessage>,
    ack: AckSender<A>,
    Extension(user): Extension<User>,
    State(store): State<Store>,
) {
    let stored = match store.send(conversation_id, &user, message).await {
        Ok(stored) => stored,
        Err(failure) => return answer::<A, ()>("chatMessage", &socket, ack, Err(&failure)),
    };
    let message = &stored.message;
    let _ = socket.emit("messageReceived", message);
    let rooms = [
        user_room(message.receiver_id),
        user_room(user.id),
        conversation_room(conversation_id),
    ];
    let _ = socket.to(rooms).emit("chatMessage", message).await;
    if user.role == "user" {
        let Conversation { client, .. } = &*stored.conversation;
        let notification = json!({
            "conversationId": conversation_id,
            "message": message,
            "client": client,
            "unreadCount": stored.unread_count,
        });
        let _ = socket
            .within("admin")
            .emit("newMessageNotification", &notification)
            .await;
    }
    answer("chatMessage", &socket, ack, Ok(message));
}

async fn typing<A: Adapter>(
    socket: SocketRef<A>,
    Data(Typing {
        conversation_id,
        is_typing,
    }): Data<Typing>,
    ack: AckSender<A>,
    Extension(user): Extension<User>,
    State(store): State<Store>,
) {
    if let Err(failure) = store.conversation(conversation_id, &user).await {
        return answer::<A, ()>("typing", &socket, ack, Err(&failure));
    }
    let sign =
        json!({ "conversationId": conversation_id, "userId": user.id, "isTyping": is_typing });
    let room = conversation_room(conversation_id);
    let _ = socket.to(room).volatile().emit("typingStatus", &sign).await;
    answer("typing", &socket, ack, Ok(&Value::Null));
}

/// As the contract says: an envelope where an answer was asked for, an `error` event where none was and it failed.
fn answer<A: Adapter, T: Serialize>(
    event: &str,
    socket: &SocketRef<A>,
    ack: AckSender<A>,
    result: Result<&T, &Failure>,
) {
    match result {
        Ok(data) => drop(ack.send(&json!({ "success": true, "data": data }))),
        Err(failure) => {
            let error = json!({ "code": failure.code(), "message": failure.to_string() });
            let _ = socket.emit(
                "error",
                &json!({ "success": false, "error": &error, "event": event }),
            );
            drop(ack.send(&json!({ "success": false, "error": error })));
        }
    }
}

fn user_room(user: i32) -> String {
    format!("user_{user}")
}

fn conversation_room(conversation: i32) -> String {
    format!("conversation_{conversation}")
}
