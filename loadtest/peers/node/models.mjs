// The tables of the old system as Sequelize models: those that the measured events touch.

import { DataTypes, Sequelize } from 'sequelize';

/** Opens the database and returns its models. */
export function connect(url) {
  const sequelize = new Sequelize(url, {
    dialect: 'mysql',
    logging: false,
    // Sequelize's own default of 5 would be the bottleneck.
    pool: { max: 20, min: 5, acquire: 30_000 },
    define: { freezeTableName: true },
  });

  const User = sequelize.define('Users', {
    email: DataTypes.STRING,
    password: DataTypes.STRING,
    role: DataTypes.ENUM('user', 'admin'),
    firstName: DataTypes.STRING,
    lastName: DataTypes.STRING,
  });
  const Client = sequelize.define('Clients', {
    name: DataTypes.STRING(100),
    email: DataTypes.STRING,
    company: DataTypes.STRING(100),
    country: DataTypes.STRING(100),
  });
  const Conversation = sequelize.define('Conversations', {
    clientId: DataTypes.INTEGER,
    agencyId: DataTypes.INTEGER,
    lastMessage: DataTypes.TEXT,
    lastMessageTime: DataTypes.DATE(3),
    unreadCount: DataTypes.INTEGER,
    isActive: DataTypes.BOOLEAN,
  });
  const Message = sequelize.define('Messages', {
    conversationId: DataTypes.INTEGER,
    senderId: DataTypes.INTEGER,
    receiverId: DataTypes.INTEGER,
    senderType: DataTypes.ENUM('client', 'agency'),
    content: DataTypes.TEXT,
    isRead: { type: DataTypes.BOOLEAN, defaultValue: false },
    readAt: DataTypes.DATE(3),
  });
  Conversation.belongsTo(Client, { as: 'client', foreignKey: 'clientId' });
  return { sequelize, User, Client, Conversation, Message };
}
