//! What goes between one superpacket and many packets, in both directions.

mod coalesce;
mod packets;
mod split;
