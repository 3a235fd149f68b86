use super::*;
use crate::wire::serve::Request;

fn checkpoint() -> Checkpoint {
    let rest = Completion {
        head: b"head".to_vec(),
        fill: 1 << 40,
        tail: b"the tail".to_vec(),
    };
    let hash = NarHash::new([7; 32]);
    Checkpoint { hash, rest }
}

fn frames() -> Vec<Frame> {
    vec![
        Frame::Attached,
        Frame::Refused("another configuration".to_owned()),
        Frame::Text("{}".to_owned()),
        Frame::Log(2, "a host is slow".to_owned()),
        Frame::Heartbeat,
        Frame::Source("user@host".to_owned()),
        Frame::Inline(Bytes::from_static(b"odd number of bytes"), None),
        Frame::Inline(Bytes::from_static(b"more"), Some(checkpoint())),
        Frame::Piped(512 << 10, checkpoint()),
        Frame::Last(17),
        Frame::Done,
        Frame::Broken("nobody has it".to_owned(), checkpoint().rest),
        Frame::Closed("user@host".to_owned(), "permission denied".to_owned()),
        Frame::Reply,
    ]
}

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let mut bytes = Vec::new();
    frames().iter().for_each(|frame| frame.put(&mut bytes));
    let (mut buf, mut out) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        buf.extend_from_slice(&[byte]);
        while let Some(frame) = Frame::take(&mut buf).unwrap() {
            out.push(frame);
        }
    }
    assert_eq!(out, frames());
    assert!(buf.is_empty());
}

#[test]
fn calls_and_requests_come_in_turns() {
    let mut bytes = Vec::new();
    let fingerprint = "f".repeat(FINGERPRINT);
    put_attach(&mut bytes, &fingerprint, 4711);
    let path = "/nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x";
    let paths = vec![crate::model::StorePath::parse(path).unwrap()];
    let request = Request::QueryPathInfos { paths };
    request.put(&mut bytes);
    put_status(&mut bytes);
    request.put(&mut bytes);
    for host in [None, Some("u@h:22")] {
        put_forget(&mut bytes, host);
    }
    put_push(&mut bytes, true);
    put_stop(&mut bytes);
    let (mut buf, mut out) = (BytesMut::new(), Vec::new());
    let mut decoder = CallDecoder::default();
    for byte in bytes {
        buf.extend_from_slice(&[byte]);
        out.extend(decoder.step(&mut buf).unwrap());
    }
    let caller = 4711;
    let served = Call::Serve(Incoming::Request(request));
    let attach = Call::Attach {
        fingerprint,
        caller,
    };
    let all = [
        attach,
        served.clone(),
        Call::Status,
        served,
        Call::Forget(None),
        Call::Forget(Some("u@h:22".to_owned())),
        Call::Push(true),
        Call::Stop,
    ];
    assert_eq!(out, all);
}

#[test]
fn what_is_too_long_is_refused_before_it_comes() {
    for number in [2, 5, 7, 8, 9, 10, 12, 13] {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, number);
        put_u64(&mut bytes, 1 << 30);
        put_u64(&mut bytes, 1 << 30);
        let mut buf = BytesMut::from(&bytes[..]);
        Frame::take(&mut buf).unwrap_err();
    }
    let mut bytes = Vec::new();
    put_u64(&mut bytes, 14);
    Frame::take(&mut BytesMut::from(&bytes[..])).unwrap_err();
    bytes.clear();
    put_u64(&mut bytes, ATTACH);
    put_u64(&mut bytes, 65);
    let mut buf = BytesMut::from(&bytes[..]);
    CallDecoder::default().step(&mut buf).unwrap_err();
}

#[test]
fn both_numbers_of_a_hello_are_told_apart() {
    let number = hello_number(Version::NEWEST, EXTENSION);
    assert_eq!(split_number(number), (Version::NEWEST.number(), EXTENSION));
    assert_eq!(split_number(0x207), (0x207, 0));
}
