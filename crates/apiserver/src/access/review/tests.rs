use super::*;
use crate::access::{Impersonation, bootstrap, impersonate};

fn access() -> Access {
    let access = Access::new();
    for it in bootstrap::objects() {
        let resource = format!("{}.rbac.authorization.k8s.io", it.resource);
        access.observe(&resource, it.namespace, &it.name, Some(&it.object));
    }
    let view = json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "viewer"}]});
    access.observe("rolebindings.rbac.authorization.k8s.io", "ns", "v", Some(&view));
    let role = json!({"rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["viewer"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["staff"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"]},
    ]});
    access.observe("clusterroles.rbac.authorization.k8s.io", "", "actor", Some(&role));
    let bound = json!({"roleRef": {"kind": "ClusterRole", "name": "actor"}, "subjects": [{"kind": "User", "name": "actor"}]});
    access.observe("clusterrolebindings.rbac.authorization.k8s.io", "", "actor", Some(&bound));
    access
}

#[test]
fn access_reviews_answer_as_the_authorizer_decides() {
    let access = access();
    for (spec, expect) in [
        (
            json!({"user": "viewer", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "ns"}}),
            true,
        ),
        (
            json!({"user": "viewer", "resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "ns"}}),
            false,
        ),
        (json!({"groups": ["system:masters"], "resourceAttributes": {"verb": "x", "resource": "y"}}), true),
        (
            json!({"user": "x", "groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/api"}}),
            true,
        ),
        (json!({"user": "x", "nonResourceAttributes": {"verb": "get", "path": "/api"}}), false),
    ] {
        let answer =
            subject_access_review(&access, &json!({"kind": "SubjectAccessReview", "spec": spec})).unwrap();
        assert_eq!(answer["status"]["allowed"], expect, "{spec}");
        assert_eq!(answer["spec"], spec);
    }
    for spec in [
        json!({}),
        json!({"user": "x"}),
        json!({"resourceAttributes": {"verb": "get"}}),
        json!({"user": "x", "resourceAttributes": {}, "nonResourceAttributes": {}}),
    ] {
        assert_eq!(subject_access_review(&access, &json!({"spec": spec})).unwrap_err().code, 422, "{spec}");
    }
    let own =
        json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "ns"}}});
    let viewer = UserInfo::new("viewer", &[]);
    assert_eq!(self_subject_access_review(&access, &viewer, &own).unwrap()["status"]["allowed"], true);
    let local = json!({"spec": {"user": "viewer", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "ns"}}});
    assert_eq!(local_subject_access_review(&access, "ns", &local).unwrap()["status"]["allowed"], true);
    assert_eq!(local_subject_access_review(&access, "other", &local).unwrap_err().code, 400);
}

#[test]
fn a_rules_review_lists_what_one_may_do() {
    let access = access();
    let review = json!({"spec": {"namespace": "ns"}});
    let answer = self_subject_rules_review(&access, &UserInfo::new("viewer", &[]), &review).unwrap();
    let status = &answer["status"];
    assert_eq!(status["incomplete"], false);
    assert!(
        list(status, "/resourceRules")
            .iter()
            .any(|rule| strings(rule, "/resources").contains(&"pods".into()))
    );
    assert!(
        list(status, "/nonResourceRules")
            .iter()
            .any(|rule| strings(rule, "/nonResourceURLs").contains(&"/api".into()))
    );
    let master = UserInfo::new("m", &["system:masters"]);
    let answer = self_subject_rules_review(&access, &master, &review).unwrap();
    assert_eq!(answer["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    assert!(self_subject_rules_review(&access, &master, &json!({})).is_err());
}

#[test]
fn whoami_says_who_is_asking() {
    let answer = self_subject_review(&UserInfo::new("x", &["g"]), &json!({"kind": "SelfSubjectReview"}));
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "x", "groups": ["g", "system:authenticated"]})
    );
}

#[test]
fn one_acts_as_another_only_as_far_as_one_may() {
    let access = access();
    let headers = |list: &[(&'static str, &'static str)]| Impersonation::read(list.iter().copied());
    assert_eq!(headers(&[("accept", "x")]), None);
    let actor = UserInfo::new("actor", &[]);
    for (list, expect) in [
        (&[("impersonate-user", "viewer")][..], Some(&["system:authenticated"][..])),
        (&[("impersonate-user", "root")], None),
        (
            &[("impersonate-user", "viewer"), ("impersonate-group", "staff")],
            Some(&["staff", "system:authenticated"]),
        ),
        (&[("impersonate-user", "viewer"), ("impersonate-group", "system:masters")], None),
        (&[("impersonate-user", "viewer"), ("impersonate-uid", "7")], None),
        (
            &[("impersonate-user", "viewer"), ("impersonate-extra-scopes", "a")],
            Some(&["system:authenticated"]),
        ),
        (&[("impersonate-user", "viewer"), ("impersonate-extra-other", "a")], None),
        (
            &[("impersonate-user", "system:serviceaccount:ns:web")],
            Some(&["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]),
        ),
        (&[("impersonate-group", "staff")], None),
    ] {
        let result = impersonate(&access, &actor, &headers(list).unwrap());
        match (&result, expect) {
            (Ok(user), Some(groups)) => assert_eq!(user.groups, groups, "{list:?}"),
            (Err(_), None) => {}
            _ => panic!("{list:?}: {result:?}"),
        }
    }
    let master = UserInfo::new("m", &["system:masters"]);
    let wanted = headers(&[("impersonate-user", "a"), ("impersonate-extra-a%2Fb", "c")]).unwrap();
    assert_eq!(impersonate(&access, &master, &wanted).unwrap().extra["a/b"], ["c"]);
    let anonymous = headers(&[("impersonate-user", "system:anonymous")]).unwrap();
    assert_eq!(impersonate(&access, &master, &anonymous).unwrap().groups, ["system:unauthenticated"]);
}
