#!/usr/bin/env python3
"""Deterministic WireGuard (Noise_IKpsk2) test vectors, written from the protocol facts only.

Implementation A: hashlib.blake2s + hmac + libsodium (PyNaCl bindings) for X25519 / AEADs.
Implementation B: the `noiseprotocol` state machine over OpenSSL (`cryptography`).
Both must agree byte for byte, or this script stops.  Usage: make_vectors.py OUT.json
    python3 -m venv v && v/bin/pip install noiseprotocol==0.3.1 pynacl cryptography
"""

import hashlib, hmac, ipaddress, json, random, struct, sys
from nacl import bindings as sodium

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"  # 37 bytes, no NUL
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"  # 34 bytes, no NUL
LABEL_MAC1, LABEL_COOKIE = b"mac1----", b"cookie--"
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1

# ---- implementation A: primitives -------------------------------------------------------
HASH = lambda *p: hashlib.blake2s(b"".join(p)).digest()
MAC = lambda key, *p: hashlib.blake2s(b"".join(p), key=key, digest_size=16).digest()
HMAC = lambda key, data: hmac.new(key, data, hashlib.blake2s).digest()
PUB = sodium.crypto_scalarmult_base
DH = sodium.crypto_scalarmult  # raises on all-zero result


def KDF(n, key, data):
    prk, out, t = HMAC(key, data), [], b""
    for i in range(1, n + 1):
        t = HMAC(prk, t + bytes([i]))
        out.append(t)
    return out


def nonce12(counter):
    return b"\0\0\0\0" + struct.pack("<Q", counter)


def SEAL(key, counter, pt, ad):
    return sodium.crypto_aead_chacha20poly1305_ietf_encrypt(pt, ad, nonce12(counter), key)


def OPEN(key, counter, ct, ad):
    return sodium.crypto_aead_chacha20poly1305_ietf_decrypt(ct, ad, nonce12(counter), key)


def XSEAL(key, nonce24, pt, ad):
    return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(pt, ad, nonce24, key)


def tai64n(sec, nsec, whiten=True):
    """TAI64N as every implementation writes it: 2**62 + 10 + unix seconds, then (coarsened) nanoseconds."""
    return struct.pack(">QI", 0x400000000000000A + sec, nsec & ~0xFFFFFF if whiten else nsec)


def padded_len(n, mtu):
    """Plaintext length after padding: round up to 16, never past the tunnel MTU (mtu 0 = unknown)."""
    if mtu == 0:
        return (n + 15) // 16 * 16
    last = n % mtu if n > mtu else n
    return n - last + min(mtu, (last + 15) // 16 * 16)


def add_macs(msg, receiver_pub, cookie=None):
    mac1 = MAC(HASH(LABEL_MAC1, receiver_pub), msg)
    mac2 = MAC(cookie, msg, mac1) if cookie else bytes(16)
    return msg + mac1 + mac2


def handshake(
    name, i_priv, r_priv, i_eph, r_eph, psk, timestamp, i_index, r_index, cookie_for_init=None
):
    Si, Sr, Ei, Er = PUB(i_priv), PUB(r_priv), PUB(i_eph), PUB(r_eph)
    steps = {}

    def log(tag):
        steps[tag] = {"ck": C.hex(), "h": H.hex()}

    C = HASH(CONSTRUCTION)
    H = HASH(C, IDENTIFIER)
    log("0 construction+identifier")
    H = HASH(H, Sr)
    log("1 mix responder static")
    (C,) = KDF(1, C, Ei)
    H = HASH(H, Ei)
    log("2 e (initiator)")
    C, k = KDF(2, C, DH(i_eph, Sr))
    k_es = k
    enc_static = SEAL(k, 0, Si, H)
    H = HASH(H, enc_static)
    log("3 es, s")
    C, k = KDF(2, C, DH(i_priv, Sr))
    k_ss = k
    enc_ts = SEAL(k, 0, timestamp, H)
    H = HASH(H, enc_ts)
    log("4 ss, timestamp")
    init_nomac = struct.pack("<II", 1, i_index) + Ei + enc_static + enc_ts
    init = add_macs(init_nomac, Sr, cookie_for_init)
    assert len(init) == 148
    (C,) = KDF(1, C, Er)
    H = HASH(H, Er)
    log("5 e (responder)")
    (C,) = KDF(1, C, DH(r_eph, Ei))
    log("6 ee")
    (C,) = KDF(1, C, DH(r_eph, Si))
    log("7 se")
    C, tau, k = KDF(3, C, psk)
    H = HASH(H, tau)
    k_psk = k
    log("8 psk")
    enc_empty = SEAL(k, 0, b"", H)
    H = HASH(H, enc_empty)
    log("9 empty")
    resp = add_macs(struct.pack("<III", 2, r_index, i_index) + Er + enc_empty, Si)
    assert len(resp) == 92
    t_ir, t_ri = KDF(2, C, b"")

    # ---- implementation B must produce the same bytes and keys ---------------------------
    from noise.connection import NoiseConnection, Keypair

    conns = []
    for role, s, e, peer in (("i", i_priv, i_eph, Sr), ("r", r_priv, r_eph, None)):
        n = NoiseConnection.from_name(CONSTRUCTION)
        n.set_prologue(IDENTIFIER)
        n.set_psks(psk=psk)
        n.set_as_initiator() if role == "i" else n.set_as_responder()
        n.set_keypair_from_private_bytes(Keypair.STATIC, s)
        n.set_keypair_from_private_bytes(Keypair.EPHEMERAL, e)
        if peer:
            n.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, peer)
        n.start_handshake()
        conns.append(n)
    m1 = conns[0].write_message(timestamp)
    assert bytes(conns[1].read_message(bytes(m1))) == timestamp
    m2 = conns[1].write_message(b"")
    conns[0].read_message(bytes(m2))
    assert bytes(m1) == init[8:116], "A and B differ on message 1"
    assert bytes(m2) == resp[12:60], "A and B differ on message 2"
    assert conns[0].get_handshake_hash() == H
    assert (
        conns[0].noise_protocol.cipher_state_encrypt.k == t_ir
        and conns[0].noise_protocol.cipher_state_decrypt.k == t_ri
    )

    return dict(
        name=name,
        initiator_static_private=i_priv.hex(),
        initiator_static_public=Si.hex(),
        responder_static_private=r_priv.hex(),
        responder_static_public=Sr.hex(),
        initiator_ephemeral_private=i_eph.hex(),
        initiator_ephemeral_public=Ei.hex(),
        responder_ephemeral_private=r_eph.hex(),
        responder_ephemeral_public=Er.hex(),
        preshared_key=psk.hex(),
        timestamp=timestamp.hex(),
        initiator_index=i_index,
        responder_index=r_index,
        mac1_key_of_responder=HASH(LABEL_MAC1, Sr).hex(),
        mac1_key_of_initiator=HASH(LABEL_MAC1, Si).hex(),
        cookie_key_of_responder=HASH(LABEL_COOKIE, Sr).hex(),
        cookie_key_of_initiator=HASH(LABEL_COOKIE, Si).hex(),
        key_encrypt_static=k_es.hex(),
        key_encrypt_timestamp=k_ss.hex(),
        key_encrypt_empty=k_psk.hex(),
        steps=steps,
        initiation=init.hex(),
        response=resp.hex(),
        final_hash=H.hex(),
        final_chaining_key=C.hex(),
        transport_key_initiator_to_responder=t_ir.hex(),
        transport_key_responder_to_initiator=t_ri.hex(),
    )


def transport(key, recv_index, counter, inner, mtu):
    pt = inner + bytes(padded_len(len(inner), mtu) - len(inner))
    msg = struct.pack("<IIQ", 4, recv_index, counter) + SEAL(key, counter, pt, b"")
    assert OPEN(key, counter, msg[16:], b"") == pt
    return dict(
        counter=counter, inner=inner.hex(), mtu=mtu, padded_plaintext=pt.hex(), message=msg.hex()
    )


def ipv4(src, dst, payload):
    hdr = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s",
            0x45,
            0,
            20 + len(payload),
            1,
            0,
            64,
            253,
            0,
            ipaddress.ip_address(src).packed,
            ipaddress.ip_address(dst).packed,
        )
    )
    s = sum(struct.unpack(">10H", bytes(hdr)))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    struct.pack_into(">H", hdr, 10, s ^ 0xFFFF)
    return bytes(hdr) + payload


def cookie_case(secret, nonce, addr, port, offending, offending_index, cookie_key):
    src = ipaddress.ip_address(addr).packed + struct.pack(
        ">H", port
    )  # IP bytes, then port, network order
    cookie, mac1 = MAC(secret, src), offending[-32:-16]
    reply = struct.pack("<II", 3, offending_index) + nonce + XSEAL(cookie_key, nonce, cookie, mac1)
    assert len(reply) == 64
    return cookie, dict(
        secret=secret.hex(),
        source=f"{addr} port {port}",
        source_bytes=src.hex(),
        nonce=nonce.hex(),
        aad_mac1=mac1.hex(),
        cookie=cookie.hex(),
        reply=reply.hex(),
    )


class Replay:
    """Three published behaviours: kernel, wireguard-go, boringtun (max accepted distance differs)."""

    def __init__(self, back, limit):
        self.top, self.seen, self.back, self.limit = None, set(), back, limit

    def accept(self, n):
        if n >= self.limit:
            return False
        if self.top is not None and n < self.top and self.top - n > self.back:
            return False
        if n in self.seen:
            return False
        self.seen.add(n)
        self.top = n if self.top is None else max(self.top, n)
        return True


def replay_cases(back, limit):
    W, L = back, limit
    seqs = {
        "basic": [0, 1, 1, 9, 8, 7, 7],
        "fill_to_edge": [0, 1, W, W, 2, 0],
        "edge_inclusive": [W + 5, 5, 5, 4, 6],
        "slide_one": [W, 0, W + 1, 0, 1, 1],
        "jump_far_clears": [3, 3 + 10 * W, 3 + 9 * W, 3 + 9 * W, 3 + 9 * W - 1, 4 + 9 * W],
        "limit": [L - 1, L - 1, L, L + 1, L - 2, L - 2, L - 1 - W, L - 2 - W, 0],
        "same_ring_slot": [0, 8192, 0, 8192 + 64, 64, 2 * 8192, 8192],
        "word_edges": [63, 64, 62, 65, 127, 128, 126, 129, 64, 127],
        "max_u64": [2**64 - 1, 2**64 - 8193, 2**64 - 8194, 2**64 - 8194],
    }
    return {
        k: [[n, ok] for n, ok in run([n for n in v if n < 2**64], back, limit)]
        for k, v in seqs.items()
    }


def run(seq, back, limit):
    r = Replay(back, limit)
    return [(n, r.accept(n)) for n in seq]


def allowed_ips_case(seed, v6, n_ops=160, n_look=160, peers=6):
    """Random inserts/removals with a linear longest-prefix oracle."""
    rng, bits = random.Random(seed), 128 if v6 else 32
    mk = ipaddress.IPv6Address if v6 else ipaddress.IPv4Address
    table, ops, base = {}, [], [rng.getrandbits(bits) for _ in range(12)]
    for _ in range(n_ops):
        keep = rng.randrange(bits + 1)
        a = rng.choice(base)
        a = (a >> (bits - keep) << (bits - keep)) | (
            rng.getrandbits(bits - keep) if bits - keep else 0
        )
        plen = rng.randrange(bits + 1)
        peer = rng.randrange(peers)
        net = a >> (bits - plen) << (bits - plen)
        kind = rng.choices(["add", "del", "drop_peer"], [20, 3, 1])[0]
        if kind == "add":
            table[(net, plen)] = peer  # a prefix moves to its last owner
        elif kind == "del":
            if table.get((net, plen)) == peer:
                del table[(net, plen)]  # only its owner can remove it
        else:
            table = {k: p for k, p in table.items() if p != peer}
        ops.append([kind, f"{mk(a)}/{plen}", peer])
    looks = []
    for _ in range(n_look):
        keep = rng.randrange(bits + 1)
        a = rng.choice(base)
        a = (a >> (bits - keep) << (bits - keep)) | (
            rng.getrandbits(bits - keep) if bits - keep else 0
        )
        hit = max(
            ((l, p) for (net, l), p in table.items() if a >> (bits - l) == net >> (bits - l)),
            default=(0, None),
        )
        looks.append([str(mk(a)), hit[1]])
    return dict(seed=seed, ops=ops, lookups=looks)


def main(out):
    b = lambda label: hashlib.sha256(
        b"nvpn test vector: " + label.encode()
    ).digest()  # fixed, nameable inputs
    i_priv, r_priv, i_eph, r_eph, psk = (
        b(x)
        for x in (
            "initiator static",
            "responder static",
            "initiator ephemeral",
            "responder ephemeral",
            "preshared key",
        )
    )
    ts0, ts1 = tai64n(1_700_000_000, 123_456_789), tai64n(1_700_000_005, 0)
    hs = [
        handshake(
            "psk zero", i_priv, r_priv, i_eph, r_eph, bytes(32), ts0, 0x11223344, 0xAABBCCDD
        ),
        handshake("psk set", i_priv, r_priv, i_eph, r_eph, psk, ts0, 0x11223344, 0xAABBCCDD),
        handshake(
            "roles swapped, psk set, index edges",
            r_priv,
            i_priv,
            r_eph,
            i_eph,
            psk,
            ts1,
            0,
            0xFFFFFFFF,
        ),
    ]
    init, key = bytes.fromhex(hs[1]["initiation"]), bytes.fromhex(hs[1]["cookie_key_of_responder"])
    resp = bytes.fromhex(hs[1]["response"])
    cookie4, c4 = cookie_case(
        b("cookie secret"), b("cookie nonce 4")[:24], "192.0.2.7", 51820, init, 0x11223344, key
    )
    cookie6, c6 = cookie_case(
        b("cookie secret"), b("cookie nonce 6")[:24], "2001:db8::7", 1, init, 0x11223344, key
    )
    _, cr = cookie_case(
        b("cookie secret"),
        b("cookie nonce r")[:24],
        "198.51.100.9",
        65535,
        resp,
        0xAABBCCDD,
        bytes.fromhex(hs[1]["cookie_key_of_initiator"]),
    )
    cr["note"] = (
        "cookie reply to a RESPONSE: keyed with the initiator's public key, receiver index = the response's sender index"
    )
    for c, cookie, eph, when in (
        (c4, cookie4, "retry ephemeral 4", 1_700_000_010),
        (c6, cookie6, "retry ephemeral 6", 1_700_000_020),
    ):
        c["retry"] = handshake(
            "retry with mac2",
            i_priv,
            r_priv,
            b(eph),
            r_eph,
            psk,
            tai64n(when, 0),
            0x55667788,
            0xAABBCCDD,
            cookie,
        )
    t_ir = bytes.fromhex(hs[1]["transport_key_initiator_to_responder"])
    t_ri = bytes.fromhex(hs[1]["transport_key_responder_to_initiator"])
    p41 = ipv4("10.9.0.1", "10.9.0.2", b"x" * 41)  # 61 bytes -> 64
    tr = [
        dict(direction="i->r", what="keepalive", **transport(t_ir, 0xAABBCCDD, 0, b"", 1420)),
        dict(
            direction="i->r",
            what="61 byte IPv4, padded to 64",
            **transport(t_ir, 0xAABBCCDD, 1, p41, 1420),
        ),
        dict(
            direction="i->r",
            what="1420 byte IPv4 at MTU 1420: stays 1420",
            **transport(t_ir, 0xAABBCCDD, 2, ipv4("10.9.0.1", "10.9.0.2", b"y" * 1400), 1420),
        ),
        dict(
            direction="i->r",
            what="counter above 2**32",
            **transport(t_ir, 0xAABBCCDD, 2**32 + 5, p41, 1420),
        ),
        dict(
            direction="i->r",
            what="last sendable counter",
            **transport(t_ir, 0xAABBCCDD, REJECT_AFTER_MESSAGES - 1, p41, 1420),
        ),
        dict(direction="r->i", what="keepalive", **transport(t_ri, 0x11223344, 0, b"", 1420)),
    ]
    sunscreen = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
    k, ad = bytes(range(0x80, 0xA0)), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    a = sodium.crypto_aead_chacha20poly1305_ietf_encrypt(
        sunscreen, ad, bytes.fromhex("070000004041424344454647"), k
    )
    x = XSEAL(k, bytes(range(0x40, 0x58)), sunscreen, ad)
    assert (
        a[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691" and a[:4].hex() == "d31a8d34"
    )  # RFC 8439 2.8.2
    assert (
        x[-16:].hex() == "c0875924c1c7987947deafd8780acf49" and x[:4].hex() == "bd6d179d"
    )  # draft-irtf-cfrg-xchacha A.3.1
    from cryptography.hazmat.primitives.ciphers.aead import (
        ChaCha20Poly1305 as CCP,
    )  # OpenSSL agrees

    assert CCP(k).encrypt(bytes.fromhex("070000004041424344454647"), sunscreen, ad) == a
    assert (
        HASH(b"abc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    )  # RFC 7693 B
    xa = [
        bytes.fromhex(s)
        for s in (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        )
    ]
    assert DH(xa[0], xa[1]) == xa[2]  # RFC 7748 5.2
    p = 2**255 - 19
    low = [
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        p - 1,
        p,
        p + 1,
    ]
    low_hex = [v.to_bytes(32, "little").hex() for v in low]
    for h in low_hex:
        try:
            DH(b("any scalar"), bytes.fromhex(h))
            raise SystemExit("low order point accepted")
        except Exception as e:
            if isinstance(e, SystemExit):
                raise
    mut = []

    def neg(what, raw):
        mut.append(
            dict(what=what, packet=raw.hex(), expect="drop silently, no state change, no reply")
        )

    flip = lambda raw, i, m=1: raw[:i] + bytes([raw[i] ^ m]) + raw[i + 1 :]
    for off, what in (
        (1, "reserved byte 1"),
        (2, "reserved byte 2"),
        (3, "reserved byte 3"),
        (8, "ephemeral"),
        (40, "encrypted static"),
        (88, "encrypted timestamp"),
        (116, "mac1"),
    ):
        neg(f"initiation, {what} flipped, mac1 left as it was", flip(init, off))
    remac = lambda raw, pub: add_macs(raw[:-32], pub)
    Sr, Si = (
        bytes.fromhex(hs[1]["responder_static_public"]),
        bytes.fromhex(hs[1]["initiator_static_public"]),
    )
    for off, what in ((8, "ephemeral"), (40, "encrypted static"), (88, "encrypted timestamp")):
        neg(f"initiation, {what} flipped, mac1 made valid again", remac(flip(init, off), Sr))
    for n in (0, 1, 3, 4, 31, 91, 92, 147, 149, 65507):
        neg(f"initiation cut or grown to {n} bytes", (init + bytes(70000))[:n])
    neg("response, mac1 flipped", flip(resp, 60))
    neg("response, empty tag flipped, mac1 valid", remac(flip(resp, 44), Si))
    neg("response 91 bytes", resp[:91])
    neg("response 93 bytes", resp + b"\0")
    neg(
        "initiation with low-order ephemeral (all zero), mac1 valid",
        remac(init[:8] + bytes(32) + init[40:], Sr),
    )
    t1 = bytes.fromhex(tr[1]["message"])
    neg("transport, tag flipped", flip(t1, len(t1) - 1))
    neg("transport 31 bytes", bytes.fromhex(tr[0]["message"])[:31])
    neg("type 0", bytes(148))
    neg("type 5", b"\5" + bytes(147))
    doc = dict(
        about="WireGuard vectors made by make_vectors.py; A (libsodium+hashlib) and B (noiseprotocol+OpenSSL) agree. Hex unless noted.",
        constants=dict(
            construction=CONSTRUCTION.decode(),
            identifier=IDENTIFIER.decode(),
            initial_chaining_key=HASH(CONSTRUCTION).hex(),
            initial_hash=HASH(HASH(CONSTRUCTION), IDENTIFIER).hex(),
            label_mac1=LABEL_MAC1.decode(),
            label_cookie=LABEL_COOKIE.decode(),
            rekey_after_messages=str(2**60),
            reject_after_messages=str(REJECT_AFTER_MESSAGES),
            sizes=dict(initiation=148, response=92, cookie=64, transport_min=32),
        ),
        reference=dict(
            rfc8439_2_8_2=dict(
                key=k.hex(),
                nonce="070000004041424344454647",
                aad=ad.hex(),
                plaintext=sunscreen.hex(),
                sealed=a.hex(),
            ),
            xchacha_draft_A_3_1=dict(
                key=k.hex(),
                nonce=bytes(range(0x40, 0x58)).hex(),
                aad=ad.hex(),
                plaintext=sunscreen.hex(),
                sealed=x.hex(),
            ),
            rfc7693_abc=HASH(b"abc").hex(),
            rfc7748=[v.hex() for v in xa],
            kdf=[
                dict(key=key_.hex(), input=d.hex(), t1_t2_t3=[t.hex() for t in KDF(3, key_, d)])
                for key_, d in ((bytes(32), b""), (b("kdf key"), b("kdf data")))
            ],
        ),
        handshakes=hs,
        cookies=[c4, c6, cr],
        transport=tr,
        low_order_points=low_hex,
        must_drop=mut,
        tai64n=[
            dict(sec=s, nsec=n, raw=tai64n(s, n, False).hex(), coarse=tai64n(s, n).hex())
            for s, n in (
                (0, 0),
                (1, 1),
                (1_700_000_000, 123_456_789),
                (1_700_000_000, 999_999_999),
                (2**32, 16_777_216),
            )
        ],
        padding=[
            [n, m, padded_len(n, m)]
            for n, m in (
                (0, 1420),
                (1, 1420),
                (15, 1420),
                (16, 1420),
                (17, 1420),
                (61, 1420),
                (1409, 1420),
                (1419, 1420),
                (1420, 1420),
                (1421, 1420),
                (1297, 1299),
                (1299, 1299),
                (1500, 0),
                (0, 0),
                (9000, 1420),
            )
        ],
        replay=dict(
            note="counter -> accepted. 'back' = how far behind the highest counter is still accepted (inclusive).",
            kernel=dict(
                back=8128,
                limit=str(2**64 - 1 - 8128 - 1),
                cases=replay_cases(8128, 2**64 - 1 - 8128 - 1),
            ),
            wireguard_go=dict(
                back=8128,
                limit=str(REJECT_AFTER_MESSAGES),
                cases=replay_cases(8128, REJECT_AFTER_MESSAGES),
            ),
            boringtun=dict(
                back=1023,
                limit="none in 0.7.1, so no case here goes near 2**64",
                cases={
                    k: v
                    for k, v in replay_cases(1023, 2**64 - 1).items()
                    if k not in ("limit", "max_u64")
                },
            ),
        ),
        allowed_ips=[allowed_ips_case(s, v6) for s in (1, 2, 3) for v6 in (False, True)],
    )
    json.dump(doc, open(out, "w"), indent=1)
    print("ok:", out, len(mut), "must-drop packets,", len(hs) + 2, "handshakes, A == B")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wireguard-vectors.json")
