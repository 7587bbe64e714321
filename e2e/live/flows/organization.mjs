// Organizations: members come, change and go. Who is meant by an act is not asserted; who acts is.

import { ANY, failed, noEntry, success } from "../expectation.mjs";

export default async function organization(run) {
	const [owner, member, outsider] = [run.person("olga"), run.person("mark"), run.person("otis")];
	const [ownerWeb, memberWeb, outsiderWeb] = [run.browser(), run.browser(), run.browser()];
	await run.signUp(ownerWeb, owner);
	await run.signUp(memberWeb, member);
	await run.signUp(outsiderWeb, outsider);
	const at = {
		run,
		owner: { ...owner, api: ownerWeb.client.organization, by: { user: owner.id, target: ANY } },
		member: { ...member, api: memberWeb.client.organization, by: { user: member.id, target: ANY } },
		outsider: { ...outsider, api: outsiderWeb.client.organization, by: { user: outsider.id, target: ANY } },
	};

	const organizationId = await create(at);
	const memberId = await join(at, organizationId, at.member);
	await decline(at, organizationId);
	await forbidden(at, organizationId);
	await changeMembers(at, organizationId, memberId);
	await dissolve(at, organizationId);
}

async function create({ run, owner, outsider }) {
	const slug = `acme-${owner.email.slice(5, 13)}`;
	const { json } = await run.step("organization create", 200, () => owner.api.create({ name: "Acme", slug }), success(owner.by));
	await run.step("organization create, slug taken", 400, () => outsider.api.create({ name: "Acme", slug }), failed(outsider.by));
	await run.step("organization list", 200, () => owner.api.list(), noEntry);
	await run.step("organization set-active", 200, () => owner.api.setActive({ organizationId: json.id }), success(owner.by));
	return json.id;
}

async function invite({ run, owner }, organizationId, { name, email }) {
	const act = () => owner.api.inviteMember({ email, role: "member", organizationId });
	const { json } = await run.step(`organization invite ${name}`, 200, act, success(owner.by));
	return json.id;
}

async function join(at, organizationId, person) {
	const invitationId = await invite(at, organizationId, person);
	const accept = () => person.api.acceptInvitation({ invitationId });
	const { json } = await at.run.step("organization accept", 200, accept, success(person.by));
	return json.member.id;
}

async function decline(at, organizationId) {
	const { run, owner, outsider } = at;
	const rejected = await invite(at, organizationId, outsider);
	const look = () => outsider.api.getInvitation({ query: { id: rejected } });
	await run.step("organization get-invitation", 200, look, noEntry);
	await run.step("organization reject", 200, () => outsider.api.rejectInvitation({ invitationId: rejected }), success(outsider.by));
	const cancelled = await invite(at, organizationId, outsider);
	await run.step("organization cancel", 200, () => owner.api.cancelInvitation({ invitationId: cancelled }), success(owner.by));
	const accept = () => outsider.api.acceptInvitation({ invitationId: cancelled });
	await run.step("organization accept, cancelled", 400, accept, failed(outsider.by));
}

async function forbidden({ run, member, outsider }, organizationId) {
	const { email } = outsider;
	const outside = () => outsider.api.inviteMember({ email, role: "owner", organizationId });
	await run.step("organization invite by an outsider", 400, outside, failed(outsider.by));
	const below = () => member.api.inviteMember({ email, role: "member", organizationId });
	await run.step("organization invite by a member", 403, below, failed(member.by));
	await run.step("organization delete by a member", 403, () => member.api.delete({ organizationId }), failed(member.by));
	const { client } = run.browser();
	await run.step("organization delete without session", 401, () => client.organization.delete({ organizationId }), failed({ target: ANY }));
}

async function changeMembers(at, organizationId, memberId) {
	const { run, owner, member, outsider } = at;
	const promote = () => owner.api.updateMemberRole({ memberId, role: "admin", organizationId });
	await run.step("organization update-member-role", 200, promote, success(owner.by));
	const full = () => owner.api.getFullOrganization({ query: { organizationId } });
	await run.step("organization get-full-organization", 200, full, noEntry);
	const remove = () => owner.api.removeMember({ memberIdOrEmail: member.email, organizationId });
	await run.step("organization remove-member", 200, remove, success(owner.by));
	await join(at, organizationId, outsider);
	await run.step("organization leave", 200, () => outsider.api.leave({ organizationId }), success(outsider.by));
}

async function dissolve({ run, owner }, organizationId) {
	const { api, by } = owner;
	await run.step("organization leave, only owner", 400, () => api.leave({ organizationId }), failed(by));
	const create = () => api.createTeam({ name: "Team", organizationId });
	const { json } = await run.step("organization create-team", 200, create, success(by));
	const remove = () => api.removeTeam({ teamId: json.id, organizationId });
	await run.step("organization remove-team", 200, remove, success(by));
	await run.step("organization delete", 200, () => api.delete({ organizationId }), success(by));
	await run.step("organization list after delete", 200, () => api.list(), noEntry);
}
